"""What is timed must compute the same: outputs and gradients are compared before any time is taken."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

SMALL = 1e-3
"""A tensor counts as at least this large, relative to the largest entry of all, when its error is judged."""

Arrays = Mapping[str, np.ndarray]


class Disagreement(Exception):
    """Two ways of computing the same are farther apart than their precision explains."""


def difference(found: Arrays, expected: Arrays) -> float:
    """The largest error of an entry relative to the largest entry of its tensor; infinite if a number is not finite."""
    if found.keys() != expected.keys():
        raise Disagreement(f"they do not compute the same things: {sorted(found.keys() ^ expected.keys())}")
    largest = max(float(np.abs(array).max()) for array in expected.values())
    errors = [
        np.abs(found[name] - array).max() / max(float(np.abs(array).max()), SMALL * largest, np.finfo(np.float32).tiny)
        for name, array in expected.items()
    ]
    worst = float(np.max(errors))
    return worst if np.isfinite(worst) else np.inf


def agree(what: str, found: Arrays, expected: Arrays, tolerance: float) -> float:
    """Their difference. Raises Disagreement above `tolerance`."""
    worst = difference(found, expected)
    if worst > tolerance:
        raise Disagreement(f"{what}: relative difference {worst:.1e}, allowed is {tolerance:.0e}; nothing was timed")
    return worst
