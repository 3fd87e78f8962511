"""Configurations of every dataset that needs no file, and how to make a task from a dataset alone."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache

import numpy as np

from mhc_exp.config import schema
from mhc_exp.config.compose import compose
from mhc_exp.data import Batch, Task, make_task

GENERATED: dict[str, schema.Dataset] = {
    "increment": schema.Increment(kind="increment", vocab_size=256),
    "noisy_increment": schema.NoisyIncrement(kind="noisy_increment", vocab_size=64, shift=3, epsilon=0.1),
    "pointer_chasing": schema.PointerChasing(kind="pointer_chasing", nodes=8, hops=2),
    "S3": schema.Permutation(kind="permutation", group="S3"),
    "A5": schema.Permutation(kind="permutation", group="A5"),
    "S5": schema.Permutation(kind="permutation", group="S5"),
}
SOURCE_CODE = schema.SourceCode(kind="source_code")


@cache
def default_config() -> schema.Config:
    return compose([])


def config_of(dataset: schema.Dataset, seq_len: int = 64, seed: int = 0) -> schema.Config:
    base = default_config()
    return replace(base, dataset=dataset, seed=seed, model=replace(base.model, seq_len=seq_len))


def task_of(dataset: schema.Dataset, seq_len: int = 64, seed: int = 0) -> Task:
    return make_task(config_of(dataset, seq_len, seed))


def text_dataset(path, tokenizer="bytes", vocab_size=300, percent=20.0) -> schema.Text:
    return schema.Text("text", str(path), tokenizer, vocab_size, percent)


def same(a: Batch, b: Batch) -> bool:
    return all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def digest(batches: list[Batch]) -> str:
    """sha256 over shape, type and bytes of every array."""
    total = hashlib.sha256()
    for batch in batches:
        for array in batch:
            total.update(f"{array.dtype.str}{array.shape}".encode())
            total.update(array.tobytes())
    return total.hexdigest()[:16]


def write_tokens(path, tokens, magic=20240520, version=1, count=None, dtype="<u2"):
    """A token file with llm.c's header, truthful unless told otherwise."""
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(tokens) if count is None else count
    path.write_bytes(header.tobytes() + np.asarray(tokens, dtype).tobytes())
    return path
