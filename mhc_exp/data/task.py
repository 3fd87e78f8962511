"""What a dataset is: a pure function from (seed, split, step, rank) to a batch of numpy arrays."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np


class Batch(NamedTuple):
    """Axes: B sequences, T positions. The loss is taken where `mask` is true."""

    inputs: np.ndarray
    """[B, T] int32 tokens."""
    targets: np.ndarray
    """[B, T] int32 tokens to predict."""
    mask: np.ndarray
    """[B, T] bool, positions that are supervised."""

    def split(self, parts: int) -> list[Batch]:
        """Microbatches of B/parts sequences each, in order; `parts` divides B."""
        return [Batch(*arrays) for arrays in zip(*(np.split(array, parts) for array in self), strict=True)]


class Task(Protocol):
    """A dataset with its yardsticks. Nothing here keeps state between calls."""

    name: str
    vocab_size: int
    floor: float | None
    """Lowest reachable loss in nats per supervised token, where it is known."""
    chance: float
    """Loss of the uniform guess in nats per supervised token."""
    bytes_per_token: float | None
    """Text only: mean bytes per token of the held-out text, for bits per byte."""

    def batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Batch:
        """Rows rank::world of training batch number `step` (0-based)."""
        ...

    def validation(self, count: int, batch_size: int) -> list[Batch]:
        """`count` fixed held-out batches, the same for every run of this dataset and shape, whatever the seed."""
        ...

    def identity(self) -> dict[str, Any]:
        """What the data is: name, sha256, tokens, tokenizer, split rule."""
        ...

    def files(self) -> dict[str, str]:
        """What has to be kept beside the run by file name, such as a trained tokenizer; empty for most."""
        ...

    def decode(self, tokens: np.ndarray) -> str | None:
        """Text of `tokens`, or None for a task that is not text."""
        ...
