"""What every wiring in MLX shares: the sublayers it connects and who may look at its coefficients.

Mirrors mhc_exp/torch/wiring.py. Axes: B batch, T time, N = B*T tokens, S streams, C width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import mlx.core as mx

from mhc_exp.topology.layout import NORM_EPS

Branch = Callable[[mx.array], mx.array]
"""What a connection wraps: [B, T, C] -> [B, T, C]."""


class Sublayer(Protocol):
    """Attention or MLP of one block: F(x) = inner(norm(x)) on [B, T, C], without a residual of its own."""

    def __call__(self, x: mx.array) -> mx.array: ...

    @property
    def norm(self) -> Callable[[mx.array], mx.array]: ...

    def inner(self, x: mx.array) -> mx.array: ...


class Coefficients(NamedTuple):
    """Read (H_pre) [S, N], write (H_post) [S, N] and mix (H_res as applied) [S, S, N], None for the identity."""

    read: mx.array
    write: mx.array
    mix: mx.array | None


Observer = Callable[[Coefficients, mx.array], None]
"""Called after each connection with its coefficients and the new streams [N, S, C]."""
SourceObserver = Callable[[mx.array], None]
"""Called with the weights [W, sources, N] of every read of earlier outputs: W ways or heads, N tokens (1 if static)."""


def contract(x: mx.array, weights: mx.array) -> mx.array:
    """Sum [N, C] of the streams [N, S, C] by weights [S, N]: what a sublayer reads."""
    return (weights.T[:, :, None] * x).sum(1)


def projected(x: mx.array, weight: mx.array) -> mx.array:
    """weight @ rms_norm(vec(x)) [rows, N] of streams [N, S, C]; divided by the norm after the matrix product (mHC
    eq. 14-16), in float32.
    """
    flat = x.astype(mx.float32).flatten(1)
    return (weight @ flat.T) * mx.rsqrt(mx.square(flat).mean(1) + NORM_EPS)


def with_residuals(sublayers: Sequence[Branch]) -> Branch:
    """Sublayers in turn, each added to what it reads: one or more blocks that keep their inner residuals."""

    def blocks(x: mx.array) -> mx.array:
        for sublayer in sublayers:
            x = x + sublayer(x)
        return x

    return blocks
