"""Reads of earlier outputs: where they are, what they can reach, and how they spread their weight, in float64 numpy.

A place is a number of sublayers that have run: 0 is the embedding, 2L the end of a model of L blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Read(NamedTuple):
    """One weighted sum of earlier outputs."""

    place: int
    """Where it is taken."""
    sources: tuple[int, ...]
    """Where each source was made, in the order of its weights; a sum of outputs counts as its newest one."""
    ahead: int = 0
    """Sublayers that run before the sum is read: 1 if it makes the next state rather than this one."""

    @property
    def reader(self) -> int:
        """The sublayer that runs on from the sum, counted from 0; 2L is the head."""
        return self.place + self.ahead


def shares(weights: np.ndarray) -> np.ndarray:
    """Absolute weights [W, sources, N] over their sum over sources."""
    sizes = np.abs(weights.astype(np.float64))
    return sizes / np.maximum(sizes.sum(axis=1, keepdims=True), 1e-300)


def entropy(weights: np.ndarray) -> float:
    """Entropy of the shares of weights [W, sources, N] over log(sources), mean over ways and tokens.

    0: one source has all the weight, 1: all sources have the same; nan for a single source.
    """
    share = shares(weights)
    if share.shape[1] == 1:
        return float("nan")
    return float(-(share * np.log(np.maximum(share, 1e-300))).sum(axis=1).mean() / np.log(share.shape[1]))


def mean_distance(read: Read, weights: np.ndarray) -> float:
    """How many sublayers ago the sources of a read were made, weighted by their shares, mean over ways and tokens."""
    distances = read.place - np.array(read.sources, np.float64)
    return float((shares(weights) * distances[:, None]).sum(axis=1).mean())


def measures(reads: Sequence[Read], weights: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """[K] each: `entropy`, `mean_distance`, and `largest`: share of the largest weight, mean over ways, tokens."""
    pairs = list(zip(reads, weights, strict=True))
    return {
        "entropy": np.array([entropy(values) for _, values in pairs]),
        "mean_distance": np.array([mean_distance(read, values) for read, values in pairs]),
        "largest": np.array([shares(values).max(axis=1).mean() for _, values in pairs]),
    }


def moved(weights: Sequence[np.ndarray], before: Sequence[np.ndarray]) -> np.ndarray:
    """[K]: part of the shares that lies on other sources than in `before`, mean over ways and tokens.

    0: nothing has moved, 1: nothing is where it was.
    """
    pairs = zip(weights, before, strict=True)
    return np.array([np.abs(shares(one) - shares(other)).sum(axis=1).mean() / 2 for one, other in pairs])


def table(reads: Sequence[Read], weights: Sequence[np.ndarray]) -> np.ndarray:
    """[K, places]: weight of the source made at each place, mean over ways and tokens; nan where there is none."""
    found = np.full((len(reads), 1 + max(read.place for read in reads)), np.nan)
    for line, read, values in zip(found, reads, weights, strict=True):
        line[list(read.sources)] = values.mean(axis=(0, 2), dtype=np.float64)
    return found
