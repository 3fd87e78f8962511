"""What backends draw at run time, from the project's counter RNG: sampled text, and the seeds of dropout."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mhc_exp import rng

TEMPERATURE = 0.8
"""Below one: short runs write more readable text."""


def step_seed(seed: int, step: int) -> int:
    """32-bit seed of the dropout of update `step`: a pure function, so a resumed run drops the same units."""
    return int(rng.words(seed, rng.stream_of("dropout"), step, 1)[0])


def generate(
    scores: Callable[[np.ndarray], np.ndarray], prompt: np.ndarray, count: int, seq_len: int, seed: int
) -> np.ndarray:
    """`count` int32 tokens after `prompt` [T]; `scores` maps tokens [T] to next-token scores [V]."""
    tokens = list(map(int, prompt))
    draws = rng.uniform(seed, rng.stream_of("sample"), (count,), 0.5) + 0.5
    for draw in draws:
        logits = scores(np.asarray(tokens[-seq_len:], np.int32)).astype(np.float64) / TEMPERATURE
        cumulative = np.exp(logits - logits.max()).cumsum()
        tokens.append(min(int(np.searchsorted(cumulative, draw * cumulative[-1], side="right")), len(logits) - 1))
    return np.asarray(tokens[len(prompt) :], np.int32)
