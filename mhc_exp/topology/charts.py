"""The charts of H_res as a table: how many logits each takes, for which streams, and what kind of matrix it gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mhc_exp.config.variants import Mix

LARGEST_SOLVE = 16
"""Rows of the largest matrix that Cayley's transform inverts: elimination is written out for every token."""

LARGEST_PERMUTED = 5
"""Most streams whose n! permutations are summed (5: 120 logits, 6 would be 720)."""

Fill = Callable[[int, int, float, float], np.ndarray]
"""(streams, expansion, on, off) -> logits: `on` where the identity wants weight, `off` elsewhere."""


@dataclass(frozen=True)
class Chart:
    """A map from logits to the S x S mixing matrix, which `topology.reference.charts` and the backends compute."""

    logits: Callable[[int, int], int]
    """Number of logits by number of streams and expansion."""
    fill: Fill | None
    """Initial logits of a preset; None: zero logits are the identity, whatever the preset's numbers."""
    flops: Callable[[int, Mix], float]
    """Additions, multiplications and exponentials per matrix."""
    stochastic: Literal["both", "rows", "columns", "none"] = "none"
    """Which sums are one, of entries that are not negative (sinkhorn: up to truncation and eps)."""
    orthogonal: bool = False
    row_per_stream: bool = False
    """Whether the logits are one row per stream, which `norm: layer` predicts from that stream."""
    legal: Callable[[int, int], bool] = lambda streams, expansion: True
    """Whether this many streams work with this expansion."""
    allowed: str = ""
    """The legal numbers in words, for a message."""

    @property
    def doubly_stochastic(self) -> bool:
        return self.stochastic == "both"

    @property
    def starts_at_identity(self) -> bool:
        """Whether H_res is exactly I under every preset: zero logits, of which the chart makes the identity."""
        return self.fill is None


def _square(streams: int, expansion: int = 1) -> int:
    return streams**2


def _diagonal(streams: int, expansion: int, on: float, off: float) -> np.ndarray:
    return np.where(np.eye(streams, dtype=bool), on, off).reshape(-1)


def _first_of(count: Callable[[int], int]) -> Fill:
    return lambda streams, expansion, on, off: np.where(np.arange(count(streams)) == 0, on, off)


def _odds_of_the_diagonal(streams: int, expansion: int, on: float, off: float) -> np.ndarray:
    """A cell of `transport` takes sigmoid(logit) of its interval: high odds on the diagonal, low ones elsewhere."""
    return _diagonal(streams - 1, expansion, on - off, off - on)


def _equal_angles(streams: int, expansion: int, on: float, off: float) -> np.ndarray:
    """Off-diagonal entries of about exp(off - on), which are 4 s logit^2 for small logits.

    Zero logits would be the identity, but squares have no gradient there: H_res would never train.
    """
    count = streams * expansion * (streams * expansion - 1) // 2
    return np.full(count, 0.5 * np.sqrt(np.exp(off - on) / expansion))


def _sinkhorn_flops(streams: int, spec: Mix) -> float:
    if spec.solver == "newton":  # of every step: couplings and elimination, the exponential, three normalisations
        return spec.iterations * (3 * streams**3 + 16 * streams**2)
    return spec.iterations * 4 * streams**2


def _cayley_flops(size: int) -> float:
    return 2 * size**3 + size**2


def _bits(streams: int) -> int:
    return streams.bit_length() - 1


CHARTS = {
    "identity": Chart(lambda n, s: 0, None, lambda n, spec: 0, "both", orthogonal=True, row_per_stream=True),
    "free": Chart(_square, _diagonal, lambda n, spec: 0, row_per_stream=True),
    "exp": Chart(_square, _diagonal, lambda n, spec: n**2, row_per_stream=True),
    "row_softmax": Chart(_square, _diagonal, lambda n, spec: 3 * n**2, "rows", row_per_stream=True),
    "column_softmax": Chart(_square, _diagonal, lambda n, spec: 3 * n**2, "columns", row_per_stream=True),
    "sinkhorn": Chart(_square, _diagonal, _sinkhorn_flops, "both", row_per_stream=True),
    "permutation": Chart(
        lambda n, s: math.factorial(n),
        _first_of(math.factorial),
        lambda n, spec: (3 + n) * math.factorial(n),
        "both",
        legal=lambda n, s: n <= LARGEST_PERMUTED,
        allowed=f"1 to {LARGEST_PERMUTED} streams (it has n! logits)",
    ),
    "kronecker": Chart(
        lambda n, s: 2 * _bits(n),
        lambda n, s, on, off: np.tile([on, off], _bits(n)),
        lambda n, spec: 6 * _bits(n) + 4 / 3 * n**2,
        "both",
        legal=lambda n, s: n >= 2 and n & (n - 1) == 0,
        allowed="a power of two (2, 4, 8, 16, 32 or 64) streams",
    ),
    "orthostochastic": Chart(
        lambda n, s: n * s * (n * s - 1) // 2,
        _equal_angles,
        lambda n, spec: _cayley_flops(n * spec.expansion) + 2 * (n * spec.expansion) ** 2,
        "both",
        legal=lambda n, s: n >= 2 and n * s <= LARGEST_SOLVE,
        allowed=f"at least 2 streams with streams x expansion at most {LARGEST_SOLVE}",
    ),
    "transport": Chart(
        lambda n, s: (n - 1) ** 2,
        _odds_of_the_diagonal,
        lambda n, spec: 14 * (n - 1) ** 2,
        "both",
        legal=lambda n, s: 2 <= n <= LARGEST_SOLVE,
        allowed=f"2 to {LARGEST_SOLVE} streams",
    ),
    "circulant": Chart(lambda n, s: n, _first_of(lambda n: n), lambda n, spec: 3 * n, "both"),
    "quaternion": Chart(
        lambda n, s: 8,
        None,
        lambda n, spec: 148,  # two norms of 10, one 4 x 4 product
        orthogonal=True,
        legal=lambda n, s: n == 4,
        allowed="exactly 4 streams",
    ),
    "cayley": Chart(
        lambda n, s: n * (n - 1) // 2,
        None,
        lambda n, spec: _cayley_flops(n),
        orthogonal=True,
        legal=lambda n, s: 2 <= n <= LARGEST_SOLVE,
        allowed=f"2 to {LARGEST_SOLVE} streams",
    ),
    "sigmoid_diagonal": Chart(
        lambda n, s: n, lambda n, s, on, off: np.full(n, on - off), lambda n, spec: 4 * n, row_per_stream=True
    ),
}


def initial_logits(spec: Mix, streams: int, on: float, off: float) -> np.ndarray:
    """Initial logits of H_res: `on` where the identity wants weight, `off` elsewhere, as far as the chart has both."""
    chart = CHARTS[spec.chart]
    if chart.fill is None:
        return np.zeros(chart.logits(streams, spec.expansion))
    return chart.fill(streams, spec.expansion, on, off)


def keeps_equal_streams(spec: Mix) -> bool:
    """Whether streams that are equal stay so at step 0: H_res as applied has unit row sums, or is the identity."""
    chart = CHARTS[spec.chart]
    return chart.starts_at_identity or chart.stochastic in ("both", "rows" if spec.apply == "plain" else "columns")
