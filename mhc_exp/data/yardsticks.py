"""What a text model has to beat: bits per byte of a bigram table, xz and bz2 on the same held-out text."""

from __future__ import annotations

import bz2
import lzma

import numpy as np

from mhc_exp.data.task import Task
from mhc_exp.data.text import TextTask

SCORED = 4 << 20
"""Held-out bytes that are scored, from the start: xz needs 0.5 s per MB."""
PSEUDO_COUNT = 0.01
"""Added to every count of the bigram table, so that an unseen pair costs finitely many bits."""
_CHUNK = 1 << 22


def yardsticks(task: Task) -> dict[str, float] | None:
    """Bits per byte {"bigram", "xz", "bz2"} on the held-out text (its first 4 MiB), or None if there is no text.

    The bytes are those of the held-out part before tokenization, whatever the tokenizer. `bigram`: the next byte given
    the previous one, counted on the whole training part plus 0.01, scored on every held-out byte but the first, which
    has no predecessor (a model is not scored on it either). `xz` (preset 6) and `bz2` (level 9): eight times the size
    of the compressed file, headers included, over the number of held-out bytes; they see the held-out part alone and
    start from nothing. A run's own validation loss is taken on evenly spread windows of the same part.
    """
    if not isinstance(task, TextTask):
        return None
    held_out = task.parts.held_out[:SCORED]
    return {
        "bigram": bigram(task.parts.training, held_out),
        "xz": 8 * len(lzma.compress(held_out, preset=6)) / len(held_out),
        "bz2": 8 * len(bz2.compress(held_out, 9)) / len(held_out),
    }


def bigram(training: bytes, scored: bytes) -> float:
    """Mean bits of scored[1:] given the byte before, under pair counts of `training` plus PSEUDO_COUNT."""
    counts = _pair_counts(training) + PSEUDO_COUNT
    bits = np.log2(counts.sum(axis=1, keepdims=True)) - np.log2(counts)
    occurrences = _pair_counts(scored)
    return float((occurrences * bits).sum() / occurrences.sum())


def _pair_counts(text: bytes) -> np.ndarray:
    """[256, 256] number of times byte a is followed by byte b."""
    stream = np.frombuffer(text, np.uint8)
    counts = np.zeros(256 * 256, np.int64)
    for start in range(0, len(stream) - 1, _CHUNK):
        piece = stream[start : start + _CHUNK + 1].astype(np.int64)
        counts += np.bincount(piece[:-1] * 256 + piece[1:], minlength=256 * 256)
    return counts.reshape(256, 256)
