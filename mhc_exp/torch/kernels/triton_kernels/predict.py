"""Coefficients of a dynamic connection from its streams: RMS norm, projection, gates (arXiv:2512.24880 eq. 7-8, 14-16).

Axes: N tokens, S streams, C width, K = S C, P coefficients. Mirrors ../predict.c. Products are in full float32 ("ieee",
not TF32); the norm is applied after the projection.
"""

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from mhc_exp.config.variants import Streams
from mhc_exp.topology.layout import NORM_EPS
from mhc_exp.torch.kernels.fused import ACTIVATIONS, Predicted
from mhc_exp.torch.kernels.triton_kernels.tuning import MANY, blocks, tuned

PROJECTIONS = (16, 64, 4), (32, 64, 4), (64, 32, 4), (64, 64, 8), (16, 128, 4)
"""Block sizes; matrix products need 16 of everything."""
TOKENS_PER_PART, PROGRAMS = 256, 512
"""The gradient of the weight is summed over parts of at least so many tokens; about so many programs are wanted."""


def predict_forward(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, variant: Streams, reads: bool
) -> tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(u or None, read, write, logits, normed, inverse), as fused.Kernels says."""
    tokens, streams, width = x.shape
    total = len(bias)
    u = x.new_empty(tokens, width) if reads else None
    sizes = streams, streams, total - 2 * streams, total
    read, write, logits, normed = (weight.new_empty(rows, tokens) for rows in sizes)
    inverse = weight.new_empty(tokens)
    tensors = x, weight, scale, bias, u, read, write, logits, normed, inverse
    _predict[blocks(tokens)](*tensors, *_sizes(x, weight, scale, variant), NORM_EPS, **_constants(x, weight, variant))
    return u, read, write, logits, normed, inverse


def predict_backward(
    saved: Predicted, variant: Streams, arriving: tuple[Tensor | None, ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(dx, dweight, dscale, dbias) from gradients of (u, read, write, logits, x), each of which may be None."""
    x, weight, scale = saved[:3]
    (tokens, streams, width), total = x.shape, len(weight)
    dx, draw = torch.empty_like(x), weight.new_empty(total, tokens)
    sizes, constants = _sizes(x, weight, scale, variant), _constants(x, weight, variant)
    _predict_backward[blocks(tokens)](*saved, *arriving, dx, draw, *sizes, **constants)
    parts, each = _parts(tokens, streams * width)
    dweight = weight.new_empty(parts, *weight.shape)
    gates = ("READ", "WRITE", "READ_EPS", "WRITE_EPS")
    columns = {name: value for name, value in constants.items() if name not in gates}
    grid = lambda blocks: (triton.cdiv(streams * width, blocks["BC"]), parts)  # noqa: E731
    _weight_gradient[grid](x, scale, saved.inverse, draw, dweight, each, *sizes, **columns)
    per_row = (draw * saved.normed).sum(1).split((streams, streams, total - 2 * streams))
    dscale = torch.stack([rows.sum() for rows in per_row])[: len(scale)]
    return dx, dweight.sum(0), dscale, draw.sum(1)


def _sizes(x: Tensor, weight: Tensor, scale: Tensor, variant: Streams) -> tuple[int, int, int, int, int, float]:
    """Arguments N, C, many, P, scales (learned ones: 3, or 2 if that of the logits is alpha), alpha."""
    tokens, _, width = x.shape
    return tokens, width, int(tokens >= MANY), len(weight), len(scale), variant.alpha


def _constants(x: Tensor, weight: Tensor, variant: Streams) -> dict[str, int | float]:
    read, write = variant.read, variant.write
    gates = {"READ": ACTIVATIONS[read.activation], "WRITE": ACTIVATIONS[write.activation]}
    padded = max(16, triton.next_power_of_2(len(weight)))
    return gates | {"READ_EPS": read.eps, "WRITE_EPS": write.eps, "S": x.shape[1], "PP": padded}


def _parts(tokens: int, inputs: int) -> tuple[int, int]:
    """How many parts the tokens are cut into, and tokens in each: by the shape alone, since it decides the bits."""
    wanted = max(1, PROGRAMS // triton.cdiv(inputs, 64))
    each = max(TOKENS_PER_PART, triton.cdiv(tokens, wanted))
    each = 64 * triton.cdiv(each, 64)
    return triton.cdiv(tokens, each), each


@triton.jit
def _gate(z, activation: tl.constexpr, eps: tl.constexpr):
    if activation == 1:
        z = 1.0 / (1.0 + tl.exp(-z))
    if activation == 2:
        z = 2.0 / (1.0 + tl.exp(-z))
    return z + eps


@triton.jit
def _slope(value, activation: tl.constexpr, eps: tl.constexpr):
    """d gate / d z from the gate's value."""
    value -= eps
    if activation == 0:
        value = value * 0.0 + 1.0
    if activation == 1:
        value = value * (1.0 - value)
    if activation == 2:
        value = value * (1.0 - 0.5 * value)
    return value


@triton.jit
def _scales(scale, p, P, scales, alpha, S: tl.constexpr):
    """The scale of every coefficient p: one for the reads, one for the writes, one (or alpha) for the logits."""
    part = tl.where(p < S, 0, tl.where(p < 2 * S, 1, 2))
    learned = tl.load(scale + part, mask=part < scales, other=0.0)
    return tl.where(p < P, tl.where(part < scales, learned, alpha), 0.0)


@tuned(*PROJECTIONS)
@triton.jit
def _predict(
    x,
    weight,
    scale,
    bias,
    u,
    read,
    write,
    logits,
    normed,
    inverse,
    N,
    C,
    many,
    P,
    scales,
    alpha,
    norm_eps,
    READ: tl.constexpr,
    WRITE: tl.constexpr,
    READ_EPS: tl.constexpr,
    WRITE_EPS: tl.constexpr,
    S: tl.constexpr,
    PP: tl.constexpr,
    BN: tl.constexpr,
    BC: tl.constexpr,
):
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    p = tl.arange(0, PP)
    token, present = n.to(tl.int64)[:, None], (n < N)[:, None]
    raw = tl.zeros((BN, PP), tl.float32)
    squares = tl.zeros((BN,), tl.float32)
    for start in range(0, S * C, BC):
        k = start + tl.arange(0, BC)
        own = tl.load(x + token * (S * C) + k[None, :], mask=present & (k < S * C)[None, :], other=0.0).to(tl.float32)
        inside = (k < S * C)[:, None] & (p < P)[None, :]
        rows = tl.load(weight + p[None, :] * (S * C) + k[:, None], mask=inside, other=0.0)
        raw = tl.dot(own, rows, raw, input_precision="ieee")
        squares += tl.sum(own * own, axis=1)
    factor = 1.0 / tl.sqrt(squares / (S * C) + norm_eps)
    tl.store(inverse + n, factor, mask=n < N)
    value = raw * factor[:, None]
    column = p[None, :]
    tl.store(normed + column * N + n[:, None], value, mask=present & (column < P))
    z = value * _scales(scale, p, P, scales, alpha, S)[None, :] + tl.load(bias + p, mask=p < P, other=0.0)[None, :]
    reads = _gate(z, READ, READ_EPS)
    tl.store(read + column * N + n[:, None], reads, mask=present & (column < S))
    writes = present & (column >= S) & (column < 2 * S)
    tl.store(write + (column - S) * N + n[:, None], _gate(z, WRITE, WRITE_EPS), mask=writes)
    rest = present & (column >= 2 * S) & (column < P)
    tl.store(logits + (column - 2 * S) * N + n[:, None], z, mask=rest)
    if u is not None:
        for start in range(0, C, BC):
            c = start + tl.arange(0, BC)[None, :]
            inside = present & (c < C)
            total = tl.zeros((BN, BC), tl.float32)
            for s in tl.static_range(S):
                share = tl.sum(tl.where(column == s, reads, 0.0), axis=1)[:, None]
                total += share * tl.load(x + token * (S * C) + s * C + c, mask=inside, other=0.0).to(tl.float32)
            tl.store(u + token * C + c, total.to(u.dtype.element_ty), mask=inside)


@tuned(*PROJECTIONS)
@triton.jit
def _predict_backward(
    x,
    weight,
    scale,
    read,
    write,
    normed,
    inverse,
    du,
    dread,
    dwrite,
    dlogits,
    before,
    dx,
    draw,
    N,
    C,
    many,
    P,
    scales,
    alpha,
    READ: tl.constexpr,
    WRITE: tl.constexpr,
    READ_EPS: tl.constexpr,
    WRITE_EPS: tl.constexpr,
    S: tl.constexpr,
    PP: tl.constexpr,
    BN: tl.constexpr,
    BC: tl.constexpr,
):
    """dx, and `draw` [P, N]: the gradient before gates, of scale times projection plus bias."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    p = tl.arange(0, PP)
    token, present, column = n.to(tl.int64)[:, None], (n < N)[:, None], p[None, :]
    is_read, is_write = present & (column < S), present & (column >= S) & (column < 2 * S)
    is_rest = present & (column >= 2 * S) & (column < P)
    at = column * N + n[:, None]
    d = tl.zeros((BN, PP), tl.float32)
    if dread is not None:
        d += tl.load(dread + at, mask=is_read, other=0.0)
    if dwrite is not None:
        d += tl.load(dwrite + at - S * N, mask=is_write, other=0.0)
    if dlogits is not None:
        d += tl.load(dlogits + at - 2 * S * N, mask=is_rest, other=0.0)
    if du is not None:
        for start in range(0, C, BC):
            c = start + tl.arange(0, BC)[None, :]
            inside = present & (c < C)
            gradient = tl.load(du + token * C + c, mask=inside, other=0.0).to(tl.float32)
            for s in tl.static_range(S):
                own = tl.load(x + token * (S * C) + s * C + c, mask=inside, other=0.0).to(tl.float32)
                d += tl.where(column == s, tl.sum(gradient * own, axis=1)[:, None], 0.0)
    reads = tl.load(read + at, mask=is_read, other=0.0)
    writes = tl.load(write + at - S * N, mask=is_write, other=0.0)
    slope = tl.where(column < 2 * S, _slope(writes, WRITE, WRITE_EPS), 1.0)
    d *= tl.where(column < S, _slope(reads, READ, READ_EPS), slope)
    tl.store(draw + at, d, mask=present & (column < P))
    value = tl.load(normed + at, mask=present & (column < P), other=0.0)
    own_gradient = d * _scales(scale, p, P, scales, alpha, S)[None, :]
    factor = tl.load(inverse + n, mask=n < N, other=0.0)
    centre = (-tl.sum(own_gradient * value, axis=1) * factor * factor / (S * C))[:, None]
    g = own_gradient * factor[:, None]
    for s in tl.static_range(S):
        share = tl.sum(tl.where(column == s, reads, 0.0), axis=1)[:, None]
        for start in range(0, C, BC):
            c = start + tl.arange(0, BC)[None, :]
            inside, place = present & (c < C), token * (S * C) + s * C + c
            total = centre * tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
            if before is not None:
                total += tl.load(before + place, mask=inside, other=0.0).to(tl.float32)
            if du is not None:
                total += share * tl.load(du + token * C + c, mask=inside, other=0.0).to(tl.float32)
            known = (p < P)[:, None] & (c < C)
            rows = tl.load(weight + p[:, None] * (S * C) + s * C + c, mask=known, other=0.0)
            total = tl.dot(g, rows, total, input_precision="ieee")
            tl.store(dx + place, total.to(dx.dtype.element_ty), mask=inside)


@tuned(*PROJECTIONS)
@triton.jit
def _weight_gradient(
    x,
    scale,
    inverse,
    draw,
    dweight,
    each,
    N,
    C,
    many,
    P,
    scales,
    alpha,
    S: tl.constexpr,
    PP: tl.constexpr,
    BN: tl.constexpr,
    BC: tl.constexpr,
):
    """dweight [parts, P, K]: sums over `each` tokens, of which there are `parts` in all."""
    k = tl.program_id(0) * BC + tl.arange(0, BC)
    p = tl.arange(0, PP)
    part = tl.program_id(1)
    factors = _scales(scale, p, P, scales, alpha, S)[:, None]
    total = tl.zeros((PP, BC), tl.float32)
    for start in range(part * each, tl.minimum(part * each + each, N), BN):
        n = start + tl.arange(0, BN)
        known = (p < P)[:, None] & (n < N)[None, :]
        g = tl.load(draw + p[:, None] * N + n[None, :], mask=known, other=0.0) * factors
        g *= tl.load(inverse + n, mask=n < N, other=0.0)[None, :]
        inside = (n < N)[:, None] & (k < S * C)[None, :]
        own = tl.load(x + n.to(tl.int64)[:, None] * (S * C) + k[None, :], mask=inside, other=0.0).to(tl.float32)
        total = tl.dot(g, own, total, input_precision="ieee")
    place = (part * P + p)[:, None].to(tl.int64) * (S * C) + k[None, :]
    tl.store(dweight + place, total, mask=(p < P)[:, None] & (k < S * C)[None, :])
