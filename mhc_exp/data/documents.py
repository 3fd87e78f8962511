"""Documents of a text dataset, and how they are divided into a training part and a held-out part."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mhc_exp.data.refusal import refusal

SEPARATOR = b"\n"


class Document(NamedTuple):
    """One file, book or record; `name` decides which part it belongs to."""

    name: str
    text: bytes


@dataclass(frozen=True)
class Parts:
    """A text divided before anything is learned from it."""

    training: bytes
    held_out: bytes
    identity: dict[str, Any]
    """What the text is and how it was divided, for the run's record."""


def joined(documents: Iterable[Document]) -> bytes:
    """All texts with a line break between them."""
    return SEPARATOR.join(document.text for document in documents)


def content_hash(documents: Iterable[Document]) -> str:
    """sha256 of `joined(documents)`; for one file that is what `sha256sum` prints."""
    digest = hashlib.sha256()
    for number, document in enumerate(documents):
        digest.update(SEPARATOR if number else b"")
        digest.update(document.text)
    return digest.hexdigest()


def name_hash(name: str) -> bytes:
    """Where `name` stands in the fixed order from which held-out documents are chosen."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()


def describe(documents: list[Document], training: bytes, held_out: bytes, rule: str, **facts: Any) -> Parts:
    """Parts with the record of what the whole text is and by which rule it was divided."""
    record = {
        "sha256": content_hash(documents),
        "bytes": sum(len(document.text) for document in documents),
        "documents": len(documents),
        "split": rule,
        "held_out_bytes": len(held_out),
        "held_out_sha256": hashlib.sha256(held_out).hexdigest(),
    }
    return Parts(training, held_out, facts | record)


def divide(documents: list[Document], held_out: set[str], rule: str, **facts: Any) -> Parts:
    """Parts by document name, each in the given order."""
    training = joined(document for document in documents if document.name not in held_out)
    kept = joined(document for document in documents if document.name in held_out)
    return describe(documents, training, kept, rule, **facts)


def choose_held_out(documents: list[Document], percent: float) -> set[str]:
    """Names to hold out: in order of their hash, each that brings the held-out bytes nearer to `percent` of all.

    Documents of the same name go together. If every document is too big, the smallest is held out.
    """
    sizes: dict[str, int] = {}
    for document in documents:
        sizes[document.name] = sizes.get(document.name, 0) + len(document.text)
    missing = sum(sizes.values()) * percent / 100
    chosen = set()
    for name in sorted(sizes, key=name_hash):
        if sizes[name] <= 2 * missing:
            chosen.add(name)
            missing -= sizes[name]
    return chosen or {min(sizes, key=lambda name: (sizes[name], name_hash(name)))}


def cut_tail(text: bytes, percent: float) -> tuple[bytes, bytes]:
    """One text cut in two, `percent` of it at the end, at the next line break or else between two characters."""
    cut = len(text) - int(len(text) * percent / 100)
    line_break = text.find(b"\n", cut, cut + 4096)
    if line_break >= 0:
        cut = line_break + 1
    else:
        while cut < len(text) and text[cut] & 0xC0 == 0x80:  # inside a UTF-8 character
            cut += 1
    return text[:cut], text[cut:]


def read_file(path: str | Path, key: str) -> bytes:
    """The bytes of a file, or a refusal that says why they cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        raise refusal(key, f"cannot read {path}: {error.strerror or error}") from error


def files_below(root: Path, suffix: str = "") -> list[str]:
    """Relative paths (with /) of the regular files below `root`, sorted; hidden files and folders are left out."""
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        relative = os.path.relpath(folder, root).replace(os.sep, "/")
        prefix = "" if relative == "." else relative + "/"
        found += [prefix + name for name in names if name.endswith(suffix) and not name.startswith(".")]
    return sorted(name for name in found if os.path.isfile(os.path.join(root, name)))
