"""Word problems: the running product of random elements of S3, A5 or S5.

S3 is solvable, so constant depth suffices; A5 and S5 are NC1-complete, so the depth a transformer needs is expected to
grow with log T (Liu et al., arXiv:2210.10749; Merrill & Sabharwal, arXiv:2503.03961). S3 with T < 10 has few enough
sequences to memorise.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from mhc_exp import rng
from mhc_exp.config import schema
from mhc_exp.data.generated import GeneratedTask
from mhc_exp.data.task import Batch


class WordProblem(GeneratedTask):
    """Inputs are random group elements x[t], targets the products x[0] x[1] ... x[t]; all positions supervised."""

    name = "permutation"
    floor: float | None = 0.0

    def __init__(self, length: int, group: str, seed: int):
        super().__init__(seed)
        self.length = length
        self.group = group
        self.table = multiplication_table(group)
        self.vocab_size = len(self.table)
        self.chance = math.log(self.vocab_size)

    def samples(self, seed: int, numbers: np.ndarray) -> Batch:
        inputs = rng.below(self.draws(seed, numbers, "element", self.length), self.vocab_size).astype(np.int32)
        targets = np.empty_like(inputs)
        product = inputs[:, 0]
        targets[:, 0] = product
        for t in range(1, self.length):
            product = self.table[product, inputs[:, t]]
            targets[:, t] = product
        return Batch(inputs, targets, np.ones(inputs.shape, bool))

    def identity(self) -> dict[str, Any]:
        return self.record(group=self.group, vocab_size=self.vocab_size)


def elements(group: str) -> list[tuple[int, ...]]:
    """Permutations of 0..n-1 in lexicographic order: all (Sn) or the even ones (An)."""
    degree = int(group[1:])
    everything = itertools.permutations(range(degree))
    return [p for p in everything if group[0] == "S" or _inversions(p) % 2 == 0]


def multiplication_table(group: str) -> np.ndarray:
    """[G, G] int32 number of a b, where (a b)(j) = a(b(j))."""
    members = elements(group)
    number = {member: index for index, member in enumerate(members)}
    return np.array([[number[tuple(a[j] for j in b)] for b in members] for a in members], np.int32)


def _inversions(p: tuple[int, ...]) -> int:
    return sum(a > b for a, b in itertools.combinations(p, 2))


def make(config: schema.Config) -> WordProblem:
    dataset = config.dataset
    assert isinstance(dataset, schema.Permutation)
    return WordProblem(config.model.seq_len, dataset.group, config.seed)
