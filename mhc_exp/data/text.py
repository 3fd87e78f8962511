"""Tasks made of text: one document or many, as bytes or byte pairs, with the last word on what was held out."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from mhc_exp.config import schema
from mhc_exp.data.documents import Document, Parts, choose_held_out, cut_tail, describe, divide, files_below, read_file
from mhc_exp.data.refusal import refusal
from mhc_exp.data.tokenizers import BytePairs, Bytes, Tokenizer
from mhc_exp.data.windows import WindowedBatches, Windows, require_windows


class TextTask(WindowedBatches):
    """Next-token prediction on `parts.training`, judged on `parts.held_out`."""

    def __init__(self, name: str, parts: Parts, tokenizer: Tokenizer, config: schema.Config, key: str, advice: str):
        self.name = name
        self.parts = parts
        self.tokenizer = tokenizer
        self.vocab_size = tokenizer.vocab_size
        self.floor: float | None = None
        self.chance = math.log(tokenizer.vocab_size)
        length = config.model.seq_len
        training = Windows([tokenizer.encode(parts.training)], length)
        held_out = Windows([tokenizer.encode(parts.held_out)], length)
        require_windows(training, "training", key, advice)
        require_windows(held_out, "held-out", key, advice)
        super().__init__(training, held_out, config.seed)
        self.bytes_per_token: float | None = len(parts.held_out) / held_out.tokens

    def identity(self) -> dict[str, Any]:
        """What the text is (sha256, split, provenance), how it was tokenized, and how many tokens each part has."""
        counts = {"training_tokens": self.training.tokens, "held_out_tokens": self.held_out.tokens}
        return {"name": self.name} | self.parts.identity | self.tokenizer.identity() | counts

    def decode(self, tokens: np.ndarray) -> str:
        return self.tokenizer.decode(tokens)

    def files(self) -> dict[str, str]:
        """Content to keep beside the run by file name: the trained tokenizer, if there is one."""
        return self.tokenizer.files()


def tokenizer_for(parts: Parts, kind: str, vocab_size: int) -> Tokenizer:
    """`bytes`, or a BPE trained on the training part alone."""
    return Bytes() if kind == "bytes" else BytePairs(parts.training, vocab_size)


def make(config: schema.Config) -> TextTask:
    """`dataset=text`: the file or directory at `dataset.path`."""
    dataset = config.dataset
    assert isinstance(dataset, schema.Text)
    path = Path(dataset.path).expanduser()
    if not dataset.path.strip():
        raise refusal("dataset.path", "is empty; type dataset.path=FILE_OR_DIRECTORY")
    if not os.path.exists(path):
        raise refusal("dataset.path", f"{path} does not exist (seen from {Path.cwd()})")
    if path.is_dir():
        parts = _directory(path, dataset.validation_percent, Path(config.runs_root))
    elif path.is_file():
        parts = _single_file(path, dataset.validation_percent)
    else:
        raise refusal("dataset.path", f"{path} is neither a file nor a directory")
    tokenizer = tokenizer_for(parts, dataset.tokenizer, dataset.vocab_size)
    return TextTask("text", parts, tokenizer, config, "dataset.path", "give more text")


def _single_file(path: Path, percent: float) -> Parts:
    document = Document(path.name, read_file(path, "dataset.path"))
    if not document.text:
        raise refusal("dataset.path", f"{path} is empty")
    training, held_out = cut_tail(document.text, percent)
    rule = f"the last {percent:g} % of the file, from a line break"
    return describe([document], training, held_out, rule, source=path.name)


def _directory(path: Path, percent: float, runs_root: Path) -> Parts:
    """Every text file below `path` but those of runs: a run must not train on its own log."""
    runs = runs_root.expanduser().resolve()
    names = [name for name in files_below(path) if runs not in (path / name).resolve().parents]
    documents = [Document(name, read_file(path / name, "dataset.path")) for name in names]
    texts = [document for document in documents if document.text and b"\0" not in document.text[:8192]]
    if not texts:
        raise refusal("dataset.path", f"{path} has no text: {len(names)} files, all empty or binary (a NUL byte)")
    return divide(
        texts,
        choose_held_out(texts, percent),
        f"whole files by hash of their name, about {percent:g} % of the bytes",
        source=path.name,
        files_left_out=len(documents) - len(texts),
    )
