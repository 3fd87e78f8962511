"""Rules about datasets: files that must exist, packages, pinned revisions, room in the context."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path

from mhc_exp.config import machine
from mhc_exp.config.build import Problem
from mhc_exp.config.schema import Config, Corpus, Hub, PointerChasing, Text, Tokens

_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def dataset_problems(config: Config) -> Iterator[Problem]:
    """Everything wrong with `config.dataset` that one key alone does not show."""
    match config.dataset:
        case Text() as text:
            yield from _missing("dataset.path", text.path, "a text file or a directory of text files")
            yield from _tokenizer(text)
        case Corpus(path=str() as path):
            yield from _missing("dataset.path", path, "the directory in which the package is unpacked")
        case Tokens() as tokens:
            for key, pattern in (("train", tokens.train), ("validation", tokens.validation)):
                if not glob.glob(os.path.expanduser(pattern)):
                    yield Problem(
                        f"dataset.{key}", f"no file matches {pattern!r}; type the path of a .bin file or a pattern"
                    )
        case Hub() as hub:
            yield from _hub(hub)
        case PointerChasing(nodes=nodes) if 3 * nodes > config.model.seq_len:
            yield Problem(
                "model.seq_len",
                f"pointer_chasing over {nodes} nodes needs {3 * nodes} positions, got {config.model.seq_len}; "
                f"type model.seq_len={3 * nodes}, or dataset.nodes={max(2, config.model.seq_len // 3)}",
            )


def _hub(hub: Hub) -> Iterator[Problem]:
    yield from _tokenizer(hub)
    if hub.id.endswith((".jsonl", ".json")) or hub.id.startswith((".", "/", "~")) or os.path.isfile(hub.id):
        yield from _missing("dataset.id", hub.id, "a local .jsonl file, or a repository such as owner/name")
        return
    if _REPOSITORY.fullmatch(hub.id) is None:
        yield Problem(
            "dataset.id", f"{hub.id!r} is neither a file nor a repository; type owner/name or the path of a .jsonl file"
        )
    if hub.revision is None or _COMMIT.fullmatch(hub.revision) is None:
        yield Problem(
            "dataset.revision",
            f"a remote dataset is read at a commit, because branches move; got {hub.revision}; "
            "type dataset.revision=COMMIT (7 to 40 hexadecimal digits from the dataset's history)",
        )
    if not machine.installed("datasets"):
        yield Problem("dataset", "a remote dataset needs the package datasets; type: pip install 'mhc-exp[hub]'")


def _tokenizer(dataset: Text | Hub) -> Iterator[Problem]:
    if dataset.tokenizer == "bpe" and not machine.installed("tokenizers"):
        yield Problem(
            "dataset.tokenizer",
            "bpe needs the package tokenizers; type dataset.tokenizer=bytes, or: pip install 'mhc-exp[bpe]'",
        )


def _missing(key: str, path: str, wanted: str) -> Iterator[Problem]:
    if not path or not os.path.exists(os.path.expanduser(path)):
        yield Problem(key, f"{path!r} does not exist (looked from {Path.cwd()}); type {key}= and {wanted}")
