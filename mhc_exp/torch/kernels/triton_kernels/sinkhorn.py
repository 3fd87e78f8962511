"""Sinkhorn-Knopp (arXiv:2512.24880 eq. 9, and DeepSeek-V4's convention) and its exact gradient. Mirrors ../sinkhorn.c.

Axes: S streams, padded to SP, a power of two; N tokens, BN of them in a program. The matrix is diag(u) k diag(v): k is
the first one, then columns and rows are normalised in turns, every sum + eps. With order = columns_last all of it
happens on the transposed matrix, so that rows always come last.
"""

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from mhc_exp.torch.kernels.fused import START_COLUMN_SOFTMAX, START_EXP, Scaling

EXP, COLUMN_SOFTMAX = tl.constexpr(START_EXP), tl.constexpr(START_COLUMN_SOFTMAX)

TOKENS = 32
"""Tokens of a program: one per thread of one warp, so that sums over streams stay within a thread."""


def sinkhorn_forward(logits: Tensor, how: Scaling) -> Tensor:
    """The matrix as applied [S, S, N] from logits [S, S, N]."""
    mix, tokens = torch.empty_like(logits), logits.shape[2]
    _sinkhorn[(triton.cdiv(tokens, TOKENS),)](logits, mix, tokens, how.iterations, **_constants(logits, how))
    return mix


def sinkhorn_backward(logits: Tensor, dmix: Tensor, how: Scaling) -> Tensor:
    """dlogits: every iteration is computed once more and then taken back, exactly."""
    dlogits, tokens = torch.empty_like(logits), logits.shape[2]
    scalings = logits.new_empty(how.iterations + 1, 2, len(logits), tokens)
    tensors = logits, dmix, dlogits, scalings
    _sinkhorn_backward[(triton.cdiv(tokens, TOKENS),)](*tensors, tokens, how.iterations, **_constants(logits, how))
    return dlogits


def _constants(logits: Tensor, how: Scaling) -> dict[str, int | float]:
    streams = len(logits)
    across = {"TRANSPOSED": how.transposed, "APPLIED_TRANSPOSED": how.transposed != how.applied_transposed}
    sizes = {"S": streams, "SP": triton.next_power_of_2(streams), "BN": TOKENS}
    launch = {"num_warps": 1, "enable_fp_fusion": True}
    return {"START": how.start, "ROWS_FIRST": how.rows_first, "EPS": how.eps} | across | sizes | launch


@triton.jit
def _places(n, N, TRANSPOSED: tl.constexpr, S: tl.constexpr, SP: tl.constexpr):
    """Where the entries [SP, SP, BN] of [S, S, N] lie."""
    i, j = tl.arange(0, SP)[:, None, None], tl.arange(0, SP)[None, :, None]
    entry = j * S + i if TRANSPOSED else i * S + j
    return entry * N + n[None, None, :]


@triton.jit
def _lines(n, N, S: tl.constexpr, SP: tl.constexpr):
    """Which rows, or columns, [SP, BN] exist; the others are padding."""
    return (tl.arange(0, SP) < S)[:, None] & (n < N)[None, :]


@triton.jit
def _softmax(z, weight, line, AXIS: tl.constexpr):
    """weight exp(z) over its sum along AXIS; also the largest z and the sum of weight exp(z - largest) there."""
    exists = line[:, None, :] & line[None, :, :]
    top = tl.where(line, tl.max(tl.where(exists, z, float("-inf")), axis=AXIS), 0.0)
    e = tl.where(exists, weight * tl.exp(tl.where(exists, z - tl.expand_dims(top, AXIS), 0.0)), 0.0)
    total = tl.where(line, tl.sum(e, axis=AXIS), 1.0)
    return e / tl.expand_dims(total, AXIS), top, total


@triton.jit
def _softmax_backward(p, dp, AXIS: tl.constexpr):
    return p * (dp - tl.expand_dims(tl.sum(p * dp, axis=AXIS), AXIS))


@triton.jit
def _first_matrix(z, line, START: tl.constexpr, EPS: tl.constexpr):
    """The first matrix k, and the softmax that it comes from.

    START = exp: columns, then rows. A row of the columns' softmax may be too small for a float, so the rows are a
    softmax too; from there on every sum lies between 1/S and S.
    """
    exists = line[:, None, :] & line[None, :, :]
    if START == EXP:
        softmaxed, top, total = _softmax(z, 1.0, line, 0)
        k, _, _ = _softmax(z - top[None, :, :], 1.0 / total[None, :, :], line, 1)
    elif START == COLUMN_SOFTMAX:
        softmaxed, _, _ = _softmax(z, 1.0, line, 0)
        k = tl.where(exists, softmaxed + EPS, 0.0)
    else:
        softmaxed, _, _ = _softmax(z, 1.0, line, 1)
        k = tl.where(exists, softmaxed + EPS, 0.0)
    return k, softmaxed


@triton.jit
def _first_matrix_backward(k, softmaxed, d, START: tl.constexpr):
    if START == EXP:
        d = _softmax_backward(k, d, 1)
        d -= softmaxed * tl.sum(d, axis=0)[None, :, :]  # of a logarithm of a softmax
    elif START == COLUMN_SOFTMAX:
        d = _softmax_backward(softmaxed, d, 0)
    else:
        d = _softmax_backward(softmaxed, d, 1)
    return d


@triton.jit
def _normalised(weighted, before, line, AXIS: tl.constexpr, EPS: tl.constexpr):
    """New scalings [SP, BN] of lines whose entries, without their own scaling `before`, are `weighted`."""
    total = tl.where(line, tl.sum(weighted, axis=AXIS), 1.0)
    if EPS == 0:  # noqa: SIM108 (decided when compiling)
        after = 1.0 / total
    else:
        after = before / (before * total + EPS)
    return after


@triton.jit
def _passed(down, before, after, EPS: tl.constexpr):
    """What of the gradient `down` of a new scaling reaches the one before it: nothing, but by way of eps."""
    if EPS == 0:  # noqa: SIM108
        passed = down * 0.0
    else:
        passed = down * (after / before) * (after / before) * EPS
    return passed


@triton.jit
def _sinkhorn(
    logits,
    mix,
    N,
    iterations,
    START: tl.constexpr,
    ROWS_FIRST: tl.constexpr,
    EPS: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    APPLIED_TRANSPOSED: tl.constexpr,
    S: tl.constexpr,
    SP: tl.constexpr,
    BN: tl.constexpr,
):
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    places, line = _places(n, N, TRANSPOSED, S, SP), _lines(n, N, S, SP)
    exists = line[:, None, :] & line[None, :, :]
    k, _ = _first_matrix(tl.load(logits + places, mask=exists, other=0.0), line, START, EPS)
    u = tl.full((SP, BN), 1.0, tl.float32)
    v = tl.full((SP, BN), 1.0, tl.float32)
    if ROWS_FIRST:
        u = _normalised(k, u, line, 1, EPS)
    for _ in range(iterations):
        v = _normalised(k * u[:, None, :], v, line, 0, EPS)
        u = _normalised(k * v[None, :, :], u, line, 1, EPS)
    applied = _places(n, N, APPLIED_TRANSPOSED, S, SP)
    tl.store(mix + applied, u[:, None, :] * k * v[None, :, :], mask=exists)


@triton.jit
def _sinkhorn_backward(
    logits,
    dmix,
    dlogits,
    scalings,
    N,
    iterations,
    START: tl.constexpr,
    ROWS_FIRST: tl.constexpr,
    EPS: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    APPLIED_TRANSPOSED: tl.constexpr,
    S: tl.constexpr,
    SP: tl.constexpr,
    BN: tl.constexpr,
):
    """`scalings` [iterations + 1, 2, S, N] is working memory: u and v before and after every iteration."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    places, line = _places(n, N, TRANSPOSED, S, SP), _lines(n, N, S, SP)
    exists = line[:, None, :] & line[None, :, :]
    k, softmaxed = _first_matrix(tl.load(logits + places, mask=exists, other=0.0), line, START, EPS)
    kept = scalings + tl.arange(0, SP)[:, None] * N + n[None, :]
    one = tl.full((SP, BN), 1.0, tl.float32)
    u, v = one, one
    if ROWS_FIRST:
        u = _normalised(k, u, line, 1, EPS)
    tl.store(kept, u, mask=line)
    tl.store(kept + S * N, v, mask=line)
    for m in range(iterations):
        v = _normalised(k * u[:, None, :], v, line, 0, EPS)
        u = _normalised(k * v[None, :, :], u, line, 1, EPS)
        tl.store(kept + (m + 1) * 2 * S * N, u, mask=line)
        tl.store(kept + ((m + 1) * 2 + 1) * S * N, v, mask=line)
    tl.debug_barrier()  # another thread may read what this one has stored

    applied = _places(n, N, APPLIED_TRANSPOSED, S, SP)
    d = tl.load(dmix + applied, mask=exists, other=0.0)
    dk = d * u[:, None, :] * v[None, :, :]
    du = tl.sum(d * k * v[None, :, :], axis=1)
    dv = tl.sum(d * k * u[:, None, :], axis=0)
    for m in range(iterations):
        earlier = kept + (iterations - 1 - m) * 2 * S * N
        u_before = tl.load(earlier, mask=line, other=1.0)
        v_before = tl.load(earlier + S * N, mask=line, other=1.0)
        dsum = -du * u * u
        dk += dsum[:, None, :] * v[None, :, :]
        dv += tl.sum(dsum[:, None, :] * k, axis=0)
        du = _passed(du, u_before, u, EPS)
        dsum = -dv * v * v
        dk += dsum[None, :, :] * u_before[:, None, :]
        du += tl.sum(dsum[None, :, :] * k, axis=1)
        dv = _passed(dv, v_before, v, EPS)
        u, v = u_before, v_before
    if ROWS_FIRST:
        dk += (-du * u * u)[:, None, :]
    tl.store(dlogits + places, _first_matrix_backward(k, softmaxed, dk, START), mask=exists)
