"""Doubly stochastic matrices from square logits in keras.ops: Sinkhorn-Knopp and its limit. Mirrors torch/sinkhorn.py.

Axes: S streams, N tokens, which come last. The specification is mhc_exp.topology.reference.sinkhorn.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from mhc_exp.config.variants import Mix
from mhc_exp.keras.framework import Tensor, ops, precision, repeated
from mhc_exp.topology.newton import FLOOR, TOLERANCE, WARMEST_RANGE

ROWS, COLUMNS = 1, 0
"""The axis to sum over for the sums of rows and of columns of [S, S, N]."""


def sinkhorn(square: Tensor, spec: Mix) -> Tensor:
    """Doubly stochastic [S, S, N] from logits [S, S, N], in all conventions.

    The gradient is that of these very iterations; with solver=newton that of the limit, which is then reached.
    """
    first, last = (COLUMNS, ROWS) if spec.order == "rows_last" else (ROWS, COLUMNS)
    if spec.solver == "newton":
        return _birkhoff_projection(spec.iterations, first, last)(square)
    iterations = spec.iterations

    if spec.eps == 0:  # in logarithms, as in PyTorch: no logits are too far apart
        if spec.start == "softmax":
            square = _log_softmax(_log_softmax(square, ROWS), last)
            iterations -= 1
        return ops.exp(repeated(lambda logs: _log_softmax(_log_softmax(logs, first), last), square, iterations))

    def normalise(matrix: Tensor, axis: int) -> Tensor:
        return matrix / (ops.sum(matrix, axis, keepdims=True) + spec.eps)

    if spec.start == "softmax":
        matrix = normalise(ops.softmax(square, axis=ROWS) + spec.eps, last)
        iterations -= 1
    else:
        matrix = ops.exp(square - ops.max(square, (0, 1), keepdims=True))
    return repeated(lambda matrix: normalise(normalise(matrix, first), last), matrix, iterations)


@functools.cache
def _birkhoff_projection(steps: int, first: int, last: int) -> Callable[[Tensor], Tensor]:
    """The limit of Sinkhorn-Knopp by Newton's method on the dual, with the gradient of the limit (arXiv:2606.07574)."""

    @ops.custom_gradient
    def project(square: Tensor) -> tuple[Tensor, Callable[..., Tensor]]:
        logs = _limit(square, steps)
        matrix = ops.exp(_log_softmax(_log_softmax(logs, first), last))

        def backward(*given: Tensor, upstream: Tensor | None = None) -> Tensor:
            return _gradient_of_the_limit(matrix, given[0] if upstream is None else upstream)

        return matrix, backward

    return project


def _limit(square: Tensor, steps: int) -> Tensor:
    """Logarithms [S, S, N] of the doubly stochastic matrix of logits [S, S, N].

    The method is that of topology.reference.sinkhorn.birkhoff_projection. A token whose sums are one is left alone. As
    many steps as topology.newton.steps_needed reach the limit; fewer leave a matrix whose sums differ from one along
    one axis, with a gradient that is nearly that of the limit.
    """
    rounding = float(np.finfo(precision(square)).eps)
    spread = ops.max(square, (0, 1)) - ops.min(square, (0, 1))
    temperature = ops.maximum(spread / WARMEST_RANGE, 1)
    start = _alternated(_alternated(square / temperature)), temperature
    return repeated(lambda state: _newton_step(state, rounding), start, steps)[0]


def _newton_step(state: tuple[Tensor, Tensor], rounding: float) -> tuple[Tensor, Tensor]:
    """The next logarithms [S, S, N] and temperatures [N]."""
    square, temperature = state
    streams = square.shape[0]
    matrix = ops.exp(square)
    error = 1 - ops.sum(matrix, COLUMNS)
    worst = ops.max(ops.abs(error), 0)
    done = ops.logical_and(temperature == 1, worst <= TOLERANCE * rounding * streams)
    flows = (error[:, None] - error[None]) / streams
    step = _solve_laplacian(_couplings(matrix, matrix), flows, FLOOR * rounding)
    reach = ops.maximum(ops.max(step, 0) - ops.min(step, 0), 1e-30)
    moved = _log_softmax(square + ops.log1p(reach) / reach * step, ROWS)
    cools = ops.logical_and(ops.logical_or(reach < 1, worst < 0.1), ops.logical_not(done))
    cooler = ops.where(cools, ops.maximum(temperature / 2, 1), temperature)
    return ops.where(done, square, _alternated(moved * (temperature / cooler))), cooler


def _gradient_of_the_limit(matrix: Tensor, gradient: Tensor) -> Tensor:
    """dZ = P * (dP - a 1^T - 1 b^T) with [I P; P^T I] [a; b] = the row and column sums of P * dP.

    Without a, as rows have unit sums: P^T P - I on b is a sum of differences over couplings, and so is its right side,
    sum_k sum_i P_ij P_ik (dP_ij - dP_ik). Both are therefore as accurate as they are small.
    """
    flows = _couplings(matrix * gradient, matrix)
    flows, tiny = flows - ops.swapaxes(flows, 0, 1), float(np.finfo(precision(matrix)).tiny)
    differences = gradient - _solve_laplacian(_couplings(matrix, matrix), flows, tiny)
    return matrix * (differences - ops.sum(matrix * differences, ROWS, keepdims=True))


def _alternated(logs: Tensor) -> Tensor:
    """One normalisation of columns, then of rows, of the logarithms [S, S, N]."""
    return _log_softmax(_log_softmax(logs, COLUMNS), ROWS)


def _log_softmax(square: Tensor, axis: int) -> Tensor:
    return ops.log_softmax(square, axis=axis)


def _couplings(one: Tensor, other: Tensor) -> Tensor:
    """A^T B [S, S, N]. For A = B = P, its off-diagonal is minus that of the Hessian diag(column sums) - P^T P."""
    return ops.sum(one[:, :, None] * other[:, None], 0)


def _solve_laplacian(couplings: Tensor, flows: Tensor, floor: float) -> Tensor:
    """x [S, N] with sum_k c_jk (x_j - x_k) = sum_k f_jk and the last x zero, for symmetric c and antisymmetric f.

    Elimination of one stream after the other that only adds couplings and never subtracts, and adds to a flow only what
    is as small as its coupling: accurate however weak couplings are, as no sum of flows has to vanish by cancelling.
    A stream's coupling to all others together is taken to be at least `floor`.
    """
    eliminated = []
    for _ in range(flows.shape[0] - 1):
        coupling, flow = couplings[0, 1:], flows[0, 1:]
        total = ops.maximum(ops.sum(coupling, 0), floor)
        share = coupling / total
        eliminated.append((share, ops.sum(flow, 0) / total))
        passed = share[:, None] * flow[None]
        flows = flows[1:, 1:] + passed - ops.swapaxes(passed, 0, 1)
        couplings = couplings[1:, 1:] + coupling[:, None] * share[None]
    x = ops.zeros_like(flows[0])
    for share, value in reversed(eliminated):
        x = ops.concatenate([(value + ops.sum(share * x, 0))[None], x], axis=0)
    return x
