"""Fixed windows over token streams, visited in a stateless shuffled order.

Axes: B sequences, T positions. Window number w of a stream holds tokens w*T .. w*T + T (T + 1 of them, one shared with
the next window), so that every token after the first is a target exactly once per epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from mhc_exp import rng
from mhc_exp.data.refusal import refusal
from mhc_exp.data.task import Batch

_SHUFFLE = rng.stream_of("data/window order/1")
_BLOCK = 2048
"""Positions shuffled at once: 16 alone cost 2.6 ms (26 MB, T = 64), 2048 cost 5 ms and serve 128 batches of 16."""


def positions(step: int, batch_size: int, rank: int, world: int) -> np.ndarray:
    """Positions in the endless order of rows rank::world of global batch `step`, int64."""
    if step < 0 or batch_size < 1 or not 0 <= rank < world:
        raise ValueError(f"no batch at step={step}, batch_size={batch_size}, rank={rank} of {world}")
    return np.arange(step * batch_size + rank, (step + 1) * batch_size, world, dtype=np.int64)


class Windows:
    """All windows of T + 1 tokens of one or more streams (arrays of one integer type, memory-mapped or not)."""

    def __init__(self, streams: Sequence[np.ndarray], length: int):
        self.streams = tuple(streams)
        self.length = length
        per_stream = [max(0, (len(stream) - 1) // length) for stream in self.streams]
        self._ends = np.cumsum(per_stream, dtype=np.int64)
        self.count = int(sum(per_stream))
        self.tokens = sum(len(stream) for stream in self.streams)

    def take(self, indices: np.ndarray) -> Batch:
        """The windows with these numbers as inputs and targets (shifted by one), all supervised."""
        rows = np.empty((len(indices), self.length + 1), np.int32)
        owner = np.searchsorted(self._ends, indices, side="right")
        for number in np.unique(owner):
            mine = owner == number
            before = self._ends[number - 1] if number else 0
            first = (indices[mine] - before) * self.length
            rows[mine] = self.streams[number][first[:, None] + np.arange(self.length + 1)]
        inputs, targets = np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:])
        return Batch(inputs, targets, np.ones(inputs.shape, bool))


class ShuffledOrder:
    """The order in which training windows are visited: a fresh permutation of all `count` windows per epoch."""

    def __init__(self, count: int, seed: int):
        self.count = count
        self._seed = seed
        self._block = lru_cache(maxsize=4)(self._shuffle_block)

    def __call__(self, at: np.ndarray) -> np.ndarray:
        """Window numbers at these positions of the endless order."""
        epochs, offsets = at // self.count, at % self.count
        blocks = offsets // _BLOCK
        indices = np.empty(len(at), np.int64)
        for epoch, block in sorted(set(zip(epochs.tolist(), blocks.tolist(), strict=True))):
            mine = (epochs == epoch) & (blocks == block)
            indices[mine] = self._block(epoch, block)[offsets[mine] - block * _BLOCK]
        return indices

    def _shuffle_block(self, epoch: int, block: int) -> np.ndarray:
        low, high = (int(word) for word in rng.words(self._seed, _SHUFFLE, 2 * epoch, 2))
        offsets = np.arange(block * _BLOCK, min((block + 1) * _BLOCK, self.count))
        return rng.permutation(offsets, self.count, low | high << 32)


class WindowedBatches:
    """The batches of a task made of windows: shuffled for training, fixed and evenly spread for validation."""

    def __init__(self, training: Windows, held_out: Windows, seed: int):
        self.training = training
        self.held_out = held_out
        self._order = ShuffledOrder(training.count, seed)

    def files(self) -> dict[str, str]:
        return {}

    def batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Batch:
        """Rows rank::world of training batch number `step`; every window once per epoch, across batch borders."""
        return self.training.take(self._order(positions(step, batch_size, rank, world)))

    def validation(self, count: int, batch_size: int) -> list[Batch]:
        """`count` batches of evenly spread held-out windows, or all windows once if there are fewer.

        A last batch that is not full is filled with unsupervised rows, so that every batch has one shape.
        """
        total = min(count * batch_size, self.held_out.count)
        indices = np.arange(total, dtype=np.int64) * self.held_out.count // total
        batches = []
        for start in range(0, total, batch_size):
            rows = indices[start : start + batch_size]
            padded = np.concatenate([rows, np.repeat(rows[-1:], batch_size - len(rows))])
            batch = self.held_out.take(padded)
            batch.mask[len(rows) :] = False
            batches.append(batch)
        return batches


def require_windows(windows: Windows, part: str, key: str, advice: str) -> None:
    """Refuse a part (`training` or `held-out`) of fewer than two windows."""
    if windows.count < 2:
        raise refusal(
            key,
            f"the {part} part has {windows.tokens:,} tokens, which is {windows.count} windows of "
            f"model.seq_len + 1 = {windows.length + 1}; two are needed: {advice}, or type a smaller model.seq_len",
        )
