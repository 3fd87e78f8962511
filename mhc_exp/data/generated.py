"""Tasks that are generated: sample number i of (seed, split) is a pure function, and the loss floor is known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from mhc_exp import rng
from mhc_exp.data.task import Batch
from mhc_exp.data.windows import positions

HELD_OUT = 1 << 40
"""First sample number of the held-out split; training refuses to count that far, so the two cannot overlap."""
_HELD_OUT_SEED = rng.stream_of("data/held out/1")


class GeneratedTask(ABC):
    """Fresh samples for every training row, and held-out samples that are the same whatever `seed` is."""

    name: str
    vocab_size: int
    floor: float | None
    chance: float
    bytes_per_token: float | None = None
    version = 1
    """Of the generator: raised whenever the same arguments would give other samples."""

    def __init__(self, seed: int):
        self.seed = seed

    @abstractmethod
    def samples(self, seed: int, numbers: np.ndarray) -> Batch:
        """The samples with these numbers [B] of the stream of `seed`."""

    def files(self) -> dict[str, str]:
        return {}

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Generator, version, arguments and seed."""

    def batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Batch:
        """Rows rank::world of training batch number `step`; no sample number is used twice."""
        numbers = positions(step, batch_size, rank, world)
        if (step + 1) * batch_size > HELD_OUT:
            raise ValueError(f"step {step} reaches into the held-out samples (number {HELD_OUT} and above)")
        return self.samples(self.seed, numbers)

    def validation(self, count: int, batch_size: int) -> list[Batch]:
        """`count` batches of samples number 2^40 and up, under a seed of their own."""
        starts = range(HELD_OUT, HELD_OUT + count * batch_size, batch_size)
        return [self.samples(_HELD_OUT_SEED, np.arange(start, start + batch_size)) for start in starts]

    def decode(self, tokens: np.ndarray) -> str | None:
        return None

    def draws(self, seed: int, numbers: np.ndarray, purpose: str, count: int) -> np.ndarray:
        """[B, count] random 32-bit words (uint64) of these samples, another stream for every `purpose`."""
        stream = rng.stream_of(f"data/{self.name}/{self.version}/{purpose}")
        blocks = (count + 3) // 4
        block = numbers.astype(np.uint64)[:, None] * np.uint64(blocks) + np.arange(blocks, dtype=np.uint64)
        counter = (block & np.uint64(0xFFFFFFFF), block >> np.uint64(32), stream & 0xFFFFFFFF, stream >> 32)
        words = np.stack(rng.philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF)), axis=-1)
        return words.reshape(len(numbers), 4 * blocks)[:, :count]

    def record(self, **arguments: Any) -> dict[str, Any]:
        """`identity()` of a generated task: generator, version, arguments and seed."""
        return {
            "name": self.name,
            "generator_version": self.version,
            **arguments,
            "seed": self.seed,
            "split": "held-out samples are number 2^40 and up under a fixed seed",
        }
