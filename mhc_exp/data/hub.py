"""`dataset=hub`: documents of a Hugging Face dataset at a pinned commit, or of a local .jsonl file of the same form.

A remote dataset is streamed once into a .jsonl file in the user's cache directory; from there on both are the same.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mhc_exp.config import schema
from mhc_exp.config.build import ConfigError
from mhc_exp.config.dataset_rules import HUB_PRESETS, hub_problems
from mhc_exp.data.documents import Document, choose_held_out, divide
from mhc_exp.data.refusal import refusal
from mhc_exp.data.text import TextTask, tokenizer_for


@dataclass(frozen=True)
class Source:
    """Which text to stream; its fields name the cached file."""

    id: str
    subset: str | None
    split: str
    revision: str
    text_field: str
    max_bytes: int


def make(config: schema.Config) -> TextTask:
    dataset = config.dataset
    assert isinstance(dataset, schema.Hub)
    if problems := list(hub_problems(dataset)):
        raise ConfigError(problems)
    if dataset.id.endswith(".jsonl"):
        path = Path(dataset.id).expanduser()
        provenance: dict[str, Any] = {"source": path.name}
    else:
        source = remote_source(dataset)
        path = cached(source)
        provenance = {"source": source.id, "subset": source.subset, "hub_split": source.split}
        provenance |= {"revision": source.revision, "max_bytes": source.max_bytes}
    documents = read_jsonl(path, dataset.text_field, dataset.max_bytes)
    percent = dataset.validation_percent
    rule = f"whole documents by hash of their text, about {percent:g} % of the bytes; equal texts stay together"
    parts = divide(documents, choose_held_out(documents, percent), rule, **provenance)
    tokenizer = tokenizer_for(parts, dataset.tokenizer, dataset.vocab_size)
    return TextTask("hub", parts, tokenizer, config, "dataset.max_bytes", "give more documents")


def remote_source(dataset: schema.Hub) -> Source:
    """What to stream; `dataset` has passed hub_problems."""
    repository, subset = HUB_PRESETS.get(dataset.id, (dataset.id, None))
    assert dataset.revision is not None
    subset = dataset.subset or subset
    return Source(repository, subset, dataset.split, dataset.revision, dataset.text_field, dataset.max_bytes)


def cache_directory() -> Path:
    """`$XDG_CACHE_HOME/mhc_exp/hub`, by default below ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mhc_exp" / "hub"


def cached(source: Source) -> Path:
    """The .jsonl file with the text of `source`, streamed first if it is not there yet."""
    key = hashlib.sha256(repr(source).encode()).hexdigest()[:16]
    path = cache_directory() / f"{source.id.replace('/', '--')}-{key}.jsonl"
    if path.is_file():
        return path
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise refusal(
            "dataset.id",
            f"{source.id} needs the package datasets: pip install 'mhc-exp[hub]' (a local .jsonl file does not)",
        ) from error
    try:
        rows = datasets.load_dataset(
            source.id, name=source.subset, split=source.split, revision=source.revision, streaming=True
        )
        write_jsonl(path, rows, source)
    except ConfigError:
        raise
    except Exception as error:  # network, missing subset or split: whatever the library raises, said once
        raise refusal("dataset.id", f"cannot stream {source.id}: {type(error).__name__}: {error}") from error
    return path


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]], source: Source) -> None:
    """Store the text of `rows` until `max_bytes` of it are there; the file appears when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    size = 0
    try:
        with open(partial, "w", encoding="utf-8") as file:
            for row in rows:
                text = _text_of(row, source.text_field, f"a row of {source.id}")
                file.write(json.dumps({source.text_field: text}) + "\n")
                size += len(text.encode("utf-8", "surrogatepass"))
                if size >= source.max_bytes:
                    break
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_jsonl(path: Path, text_field: str, max_bytes: int) -> list[Document]:
    """Documents named by the sha256 of their text, until `max_bytes` are read; empty ones are left out."""
    if not path.is_file():  # a pipe would block for ever
        raise refusal("dataset.id", f"{path} is not a file")
    documents: list[Document] = []
    size = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path.name} line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise refusal("dataset.id", f"{where} is not JSON: {error}") from error
            text = _text_of(row, text_field, where).encode("utf-8", "surrogatepass")
            if text:
                documents.append(Document(hashlib.sha256(text).hexdigest(), text))
                size += len(text)
            if size >= max_bytes:
                break
    if not documents:
        raise refusal("dataset.id", f"{path} has no text")
    return documents


def _text_of(row: Any, text_field: str, where: str) -> str:
    text = row.get(text_field) if isinstance(row, dict) else None
    if not isinstance(text, str):
        has = ", ".join(map(str, row)) if isinstance(row, dict) else f"no fields, it is {type(row).__name__}"
        raise refusal("dataset.text_field", f"{where} has no text in the field {text_field!r}; it has: {has}")
    return text
