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

HUB_PRESETS: dict[str, tuple[str, str | None]] = {
    "fineweb_edu_10bt": ("HuggingFaceFW/fineweb-edu", "sample-10BT"),
    "climbmix": ("karpathy/climbmix-400b-shuffle", None),
    "c4": ("allenai/c4", "en"),
    "tinystories": ("roneneldan/TinyStories", None),
    "wikitext103": ("Salesforce/wikitext", "wikitext-103-raw-v1"),
    "openwebtext": ("Skylion007/openwebtext", None),
    "slimpajama": ("cerebras/SlimPajama-627B", None),
}
"""Short names for `dataset.id`: repository and default subset; all have their text in the field `text`."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


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
            yield from _tokenizer(hub)
            yield from hub_problems(hub)
        case PointerChasing(nodes=nodes) if 3 * nodes > config.model.seq_len:
            yield Problem(
                "model.seq_len",
                f"pointer_chasing over {nodes} nodes needs {3 * nodes} positions, got {config.model.seq_len}; "
                f"type model.seq_len={3 * nodes}, or dataset.nodes={max(2, config.model.seq_len // 3)}",
            )


def hub_problems(hub: Hub) -> Iterator[Problem]:
    """A local .jsonl file must exist; a repository must be named and pinned to a commit."""
    if hub.id.endswith(".jsonl"):
        yield from _missing("dataset.id", hub.id, "a local .jsonl file, or a repository such as owner/name")
        return
    repository, _ = HUB_PRESETS.get(hub.id, (hub.id, None))
    if _REPOSITORY.fullmatch(repository) is None:
        yield Problem(
            "dataset.id", f"{hub.id!r} is neither a .jsonl file, nor OWNER/NAME, nor one of {', '.join(HUB_PRESETS)}"
        )
    if hub.revision is None or _COMMIT.fullmatch(hub.revision) is None:
        got = "none" if hub.revision is None else repr(hub.revision)
        yield Problem(
            "dataset.revision",
            f"a remote dataset is read at a commit of 40 hexadecimal digits, because branches move; got {got}. Look it "
            f"up: python -c \"from huggingface_hub import HfApi; print(HfApi().dataset_info('{repository}').sha)\"",
        )


def _tokenizer(dataset: Text | Hub) -> Iterator[Problem]:
    if dataset.tokenizer == "bpe" and not machine.installed("tokenizers"):
        yield Problem(
            "dataset.tokenizer",
            "bpe needs the package tokenizers; type dataset.tokenizer=bytes, or: pip install 'mhc-exp[bpe]'",
        )


def _missing(key: str, path: str, wanted: str) -> Iterator[Problem]:
    if not path or not os.path.exists(os.path.expanduser(path)):
        yield Problem(key, f"{path!r} does not exist (looked from {Path.cwd()}); type {key}= and {wanted}")
