"""What a sublayer reads, where its output goes, and the gradients of both. Mirrors ../streams.c.

Axes: N tokens, S streams, C width; a program works on BN tokens and BC channels at once.
"""

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from mhc_exp.torch.kernels.triton_kernels.tuning import MANY, blocks, tiles, tuned

SUMS = (16, 64, 4), (1, 1024, 4), (2, 512, 4), (4, 256, 4), (8, 128, 4), (1, 2048, 8), (4, 512, 8)
"""Block sizes of kernels that sum over channels."""
MAPS = (16, 64, 4), (1, 512, 2), (1, 1024, 4), (4, 256, 4), (8, 128, 4)
"""Block sizes of kernels that do not."""


def read_forward(x: Tensor, weights: Tensor) -> Tensor:
    """u [N, C] = sum_s weights_s x_s, in the precision of x."""
    tokens, streams, width = x.shape
    u = x.new_empty(tokens, width)
    _read[tiles(tokens, width)](x, weights, u, tokens, width, *_strides(weights, tokens), _many(tokens), S=streams)
    return u


def read_backward(du: Tensor, before: Tensor | None, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(dx = before + weights_s du, dweights); `before` may be None."""
    tokens, streams, width = x.shape
    dx, dweights = torch.empty_like(x), weights.new_empty(streams, tokens)
    sizes = tokens, width, *_strides(weights, tokens), _many(tokens)
    _read_backward[blocks(tokens)](du, before, x, weights, dx, dweights, *sizes, S=streams)
    return dx, dweights.sum_to_size(weights.shape)


def write_forward(x: Tensor, y: Tensor, write: Tensor, mix: Tensor | None) -> Tensor:
    """x'_i = sum_j mix_ij x_j + write_i y; without `mix`, x_i + write_i y."""
    tokens, streams, width = x.shape
    new = torch.empty_like(x)
    sizes = tokens, width, *_strides(write, tokens), _many(tokens)
    _write[tiles(tokens, width)](x, y, write, mix, new, *sizes, S=streams)
    return new


def write_backward(
    dnew: Tensor, x: Tensor, y: Tensor, write: Tensor, mix: Tensor | None
) -> tuple[Tensor | None, Tensor, Tensor, Tensor | None]:
    """(dx, dy, dwrite, dmix); dx and dmix are None without `mix`."""
    tokens, streams, width = x.shape
    dy, dwrite = torch.empty_like(y), write.new_empty(streams, tokens)
    dx, dmix = (None, None) if mix is None else (torch.empty_like(x), mix.new_empty(streams, streams, tokens))
    sizes = tokens, width, *_strides(write, tokens), _many(tokens)
    sums = triton.next_power_of_2(streams if mix is None else streams + streams * streams)
    _write_backward[blocks(tokens)](dnew, x, y, write, mix, dx, dy, dwrite, dmix, *sizes, S=streams, SUMS=sums)
    if mix is not None and dmix is not None:
        dmix = dmix.sum_to_size(mix.shape)
    return dx, dy, dwrite.sum_to_size(write.shape), dmix


def _strides(weights: Tensor, tokens: int) -> tuple[int, int]:
    """From one token's weight to the next one's (0 if one set serves all tokens), and from stream to stream."""
    return int(weights.shape[-1] == tokens), weights.shape[-1]


def _many(tokens: int) -> int:
    return int(tokens >= MANY)


@tuned(*MAPS)
@triton.jit
def _read(x, weights, u, N, C, step, gap, many, S: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr):
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    inside = (n < N)[:, None] & (c < C)[None, :]
    token = n.to(tl.int64)[:, None]
    total = tl.zeros((BN, BC), tl.float32)
    for s in tl.static_range(S):
        own = tl.load(x + token * (S * C) + s * C + c[None, :], mask=inside, other=0.0).to(tl.float32)
        total += tl.load(weights + s * gap + n * step, mask=n < N, other=0.0)[:, None] * own
    tl.store(u + token * C + c[None, :], total.to(u.dtype.element_ty), mask=inside)


@tuned(*SUMS)
@triton.jit
def _read_backward(
    du, before, x, weights, dx, dweights, N, C, step, gap, many, S: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr
):
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    token = n.to(tl.int64)[:, None]
    for s in tl.static_range(S):
        weight = tl.load(weights + s * gap + n * step, mask=n < N, other=0.0)[:, None]
        found = tl.zeros((BN,), tl.float32)
        for start in range(0, C, BC):
            c = start + tl.arange(0, BC)[None, :]
            inside = (n < N)[:, None] & (c < C)
            at = token * (S * C) + s * C + c
            gradient = tl.load(du + token * C + c, mask=inside, other=0.0).to(tl.float32)
            found += tl.sum(gradient * tl.load(x + at, mask=inside, other=0.0).to(tl.float32), axis=1)
            total = weight * gradient
            if before is not None:
                total += tl.load(before + at, mask=inside, other=0.0).to(tl.float32)
            tl.store(dx + at, total.to(dx.dtype.element_ty), mask=inside)
        tl.store(dweights + s * N + n, found, mask=n < N)


@tuned(*MAPS)
@triton.jit
def _write(x, y, write, mix, new, N, C, step, gap, many, S: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr):
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    c = tl.program_id(1) * BC + tl.arange(0, BC)[None, :]
    inside = (n < N)[:, None] & (c < C)
    token = n.to(tl.int64)[:, None]
    added = tl.load(y + token * C + c, mask=inside, other=0.0).to(tl.float32)
    own = ()
    for s in tl.static_range(S):
        own = own + (tl.load(x + token * (S * C) + s * C + c, mask=inside, other=0.0).to(tl.float32),)  # noqa: RUF005
    for i in tl.static_range(S):
        total = tl.load(write + i * gap + n * step, mask=n < N, other=0.0)[:, None] * added
        if mix is None:
            total += own[i]
        else:
            for j in tl.static_range(S):
                share = tl.load(mix + (i * S + j) * gap + n * step, mask=n < N, other=0.0)
                total += share[:, None] * own[j]
        tl.store(new + token * (S * C) + i * C + c, total.to(new.dtype.element_ty), mask=inside)


@tuned(*SUMS)
@triton.jit
def _write_backward(
    dnew,
    x,
    y,
    write,
    mix,
    dx,
    dy,
    dwrite,
    dmix,
    N,
    C,
    step,
    gap,
    many,
    S: tl.constexpr,
    SUMS: tl.constexpr,
    BN: tl.constexpr,
    BC: tl.constexpr,
):
    """Column i of `found` is <dnew_i, y>, column S + i S + j is <dnew_i, x_j>."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    token = n.to(tl.int64)[:, None]
    column = tl.arange(0, SUMS)[None, :]
    found = tl.zeros((BN, SUMS), tl.float32)
    for start in range(0, C, BC):
        c = start + tl.arange(0, BC)[None, :]
        inside = (n < N)[:, None] & (c < C)
        added = tl.load(y + token * C + c, mask=inside, other=0.0).to(tl.float32)
        down = tl.zeros((BN, BC), tl.float32)
        gradients = ()
        for i in tl.static_range(S):
            gradient = tl.load(dnew + token * (S * C) + i * C + c, mask=inside, other=0.0).to(tl.float32)
            gradients = gradients + (gradient,)  # noqa: RUF005
            down += tl.load(write + i * gap + n * step, mask=n < N, other=0.0)[:, None] * gradient
            found += tl.where(column == i, tl.sum(gradient * added, axis=1)[:, None], 0.0)
        tl.store(dy + token * C + c, down.to(dy.dtype.element_ty), mask=inside)
        if mix is not None:
            for j in tl.static_range(S):
                at = token * (S * C) + j * C + c
                own = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
                total = tl.zeros((BN, BC), tl.float32)
                for i in tl.static_range(S):
                    share = tl.load(mix + (i * S + j) * gap + n * step, mask=n < N, other=0.0)
                    total += share[:, None] * gradients[i]
                    inner = tl.sum(gradients[i] * own, axis=1)[:, None]
                    found += tl.where(column == S + i * S + j, inner, 0.0)
                tl.store(dx + at, total.to(dx.dtype.element_ty), mask=inside)
    present = (n < N)[:, None]
    tl.store(dwrite + column * N + n[:, None], found, mask=present & (column < S))
    if mix is not None:
        entries = present & (column >= S) & (column < S + S * S)
        tl.store(dmix + (column - S) * N + n[:, None], found, mask=entries)
