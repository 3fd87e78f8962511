"""What every wiring in PyTorch shares: the sublayers it connects and who may look at its coefficients.

Mirrors mhc_exp/mlx/wiring.py. Axes: B batch, T time, N = B*T tokens, S streams, C width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mhc_exp.topology.layout import NORM_EPS

Branch = Callable[[Tensor], Tensor]
"""What a connection wraps: [B, T, C] -> [B, T, C]."""


class Sublayer(Protocol):
    """Attention or MLP of one block: F(x) = inner(norm(x)) on [B, T, C], without a residual of its own."""

    def __call__(self, x: Tensor) -> Tensor: ...

    @property
    def norm(self) -> Callable[[Tensor], Tensor]: ...

    def inner(self, x: Tensor) -> Tensor: ...


class Coefficients(NamedTuple):
    """Read (H_pre) [S, N], write (H_post) [S, N] and mix (H_res as applied) [S, S, N], None for the identity."""

    read: Tensor
    write: Tensor
    mix: Tensor | None


Observer = Callable[[Coefficients, Tensor], None]
"""Called after each connection with its coefficients and the new streams [N, S, C]."""
SourceObserver = Callable[[Tensor], None]
"""Called with the weights [W, sources, N] of every read of earlier outputs: W ways or heads, N tokens (1 if static)."""


def contract(x: Tensor, weights: Tensor) -> Tensor:
    """Sum [N, C] of the streams [N, S, C] by weights [S, N]: what a sublayer reads."""
    return (weights.t().unsqueeze(2) * x).sum(1)


def at_least_single(x: Tensor) -> Tensor:
    """float32 for half precisions, x itself otherwise."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def projected(x: Tensor, weight: Tensor) -> Tensor:
    """weight @ rms_norm(vec(x)) [rows, N] of streams [N, S, C]; divided by the norm after the matrix product (mHC
    eq. 14-16), in float32 at least.
    """
    flat = at_least_single(x).flatten(1)
    return (weight @ flat.t()) * torch.rsqrt(flat.square().mean(1) + NORM_EPS)


def with_residuals(sublayers: Sequence[Branch]) -> Branch:
    """Sublayers in turn, each added to what it reads: one or more blocks that keep their inner residuals."""

    def blocks(x: Tensor) -> Tensor:
        for sublayer in sublayers:
            x = x + sublayer(x)
        return x

    return blocks
