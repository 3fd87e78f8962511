"""Counting tasks: `increment` (the seed demo's) and `noisy_increment`, whose loss floor calibrates the pipeline."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mhc_exp import rng
from mhc_exp.config import schema
from mhc_exp.data.generated import GeneratedTask
from mhc_exp.data.task import Batch


class NoisyIncrement(GeneratedTask):
    """x[0] is uniform; x[t+1] is (x[t] + shift) mod V, or uniform with probability epsilon. Predict x[t+1].

    epsilon is rounded to a multiple of 2^-32, so that the noise is decided by comparing integers.
    """

    name = "noisy_increment"

    def __init__(self, length: int, vocab_size: int, shift: int, epsilon: float, seed: int):
        super().__init__(seed)
        self.length = length
        self.vocab_size = vocab_size
        self.shift = shift
        self._threshold = round(epsilon * 2**32)
        self.epsilon = epsilon
        self.chance = math.log(vocab_size)
        self.floor: float | None = entropy(vocab_size, self._threshold / 2**32)

    def samples(self, seed: int, numbers: np.ndarray) -> Batch:
        time = np.arange(self.length + 1)
        fresh = rng.below(self.draws(seed, numbers, "value", self.length + 1), self.vocab_size)
        noisy = self.draws(seed, numbers, "noise", self.length + 1) < np.uint64(self._threshold)
        noisy[:, 0] = True
        latest = np.maximum.accumulate(np.where(noisy, time, 0), axis=1)  # when the count last started afresh
        start = np.take_along_axis(fresh, latest, axis=1)
        rows = ((start + (time - latest) * (self.shift % self.vocab_size)) % self.vocab_size).astype(np.int32)
        inputs, targets = np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:])
        return Batch(inputs, targets, np.ones(inputs.shape, bool))

    def identity(self) -> dict[str, Any]:
        return self.record(vocab_size=self.vocab_size, shift=self.shift, epsilon=self.epsilon)


class Increment(NoisyIncrement):
    """x[t] = (start + t) mod V with a uniform start: a smoke test that a bigram table solves.

    There are only V different sequences, so the held-out ones also occur in training.
    """

    name = "increment"

    def __init__(self, length: int, vocab_size: int, seed: int):
        super().__init__(length, vocab_size, shift=1, epsilon=0.0, seed=seed)

    def identity(self) -> dict[str, Any]:
        return self.record(vocab_size=self.vocab_size)


def entropy(vocab_size: int, epsilon: float) -> float:
    """Nats per token of: one symbol with probability 1 - epsilon + epsilon/V, the V - 1 others with epsilon/V each."""
    if epsilon == 0:
        return 0.0
    other = epsilon / vocab_size
    right = 1 - epsilon + other
    return -right * math.log(right) - (vocab_size - 1) * other * math.log(other)


def make(config: schema.Config) -> GeneratedTask:
    dataset, length = config.dataset, config.model.seq_len
    if isinstance(dataset, schema.Increment):
        return Increment(length, dataset.vocab_size, config.seed)
    assert isinstance(dataset, schema.NoisyIncrement)
    return NoisyIncrement(length, dataset.vocab_size, dataset.shift, dataset.epsilon, config.seed)
