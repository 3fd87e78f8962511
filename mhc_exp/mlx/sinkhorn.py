"""Doubly stochastic matrices from square logits in MLX: Sinkhorn-Knopp and its limit. Mirrors torch/sinkhorn.py.

Axes: S streams, N tokens, which come last. The specification is mhc_exp.topology.reference.sinkhorn.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from mhc_exp.config.variants import Mix
from mhc_exp.topology.newton import FLOOR, TOLERANCE, WARMEST_RANGE

ROWS, COLUMNS = 1, 0
"""The axis to sum over for the sums of rows and of columns of [S, S, N]."""

EPSILON, TINY = 2.0**-23, 2.0**-126
"""Rounding of float32, and its smallest normal number."""


def sinkhorn(square: mx.array, spec: Mix) -> mx.array:
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
        for _ in range(iterations):
            square = _log_softmax(_log_softmax(square, first), last)
        return mx.exp(square)

    def normalise(matrix: mx.array, axis: int) -> mx.array:
        return matrix / (matrix.sum(axis, keepdims=True) + spec.eps)

    if spec.start == "softmax":
        matrix = normalise(mx.softmax(square, axis=ROWS) + spec.eps, last)
        iterations -= 1
    else:
        matrix = mx.exp(square - square.max((0, 1), keepdims=True))
    for _ in range(iterations):
        matrix = normalise(normalise(matrix, first), last)
    return matrix


@functools.cache
def _birkhoff_projection(steps: int, first: int, last: int) -> Callable[[mx.array], Any]:
    """The limit of Sinkhorn-Knopp by Newton's method on the dual, with the gradient of the limit (arXiv:2606.07574).

    The method is that of topology.reference.sinkhorn.birkhoff_projection. A token whose sums are one is left alone.
    As many steps as topology.newton.steps_needed reach the limit; fewer would leave a matrix whose sums differ from one
    along one axis, with a gradient that is nearly that of the limit.
    """

    @mx.custom_function
    def project(square: mx.array) -> mx.array:
        temperature = mx.maximum((square.max((0, 1)) - square.min((0, 1))) / WARMEST_RANGE, 1)
        square = _alternated(_alternated(square / temperature))
        for _ in range(steps):
            matrix = mx.exp(square)
            error = 1 - matrix.sum(COLUMNS)
            worst = mx.abs(error).max(0)
            done = (temperature == 1) & (worst <= TOLERANCE * EPSILON * len(square))
            flows = (error[:, None] - error) / len(square)
            step = _solve_laplacian(_couplings(matrix, matrix), flows, FLOOR * EPSILON)
            reach = mx.maximum(step.max(0) - step.min(0), 1e-30)
            moved = _log_softmax(square + mx.log1p(reach) / reach * step, ROWS)
            cools = ((reach < 1) | (worst < 0.1)) & ~done
            cooler = mx.where(cools, mx.maximum(temperature / 2, 1), temperature)
            square = mx.where(done, square, _alternated(moved * (temperature / cooler)))
            temperature = cooler
        return mx.exp(_log_softmax(_log_softmax(square, first), last))

    @project.vjp
    def backward(primals: mx.array, cotangent: mx.array, matrix: mx.array) -> mx.array:
        """dZ = P * (dP - a 1^T - 1 b^T) with [I P; P^T I] [a; b] = the row and column sums of P * dP.

        Without a, as rows have unit sums: P^T P - I on b is a sum of differences over couplings, and so is its right
        side, sum_k sum_i P_ij P_ik (dP_ij - dP_ik). Both are therefore as accurate as they are small.
        """
        flows = _couplings(matrix * cotangent, matrix)
        flows = flows - flows.transpose(1, 0, 2)
        differences = cotangent - _solve_laplacian(_couplings(matrix, matrix), flows, TINY)
        return matrix * (differences - (matrix * differences).sum(ROWS, keepdims=True))

    return project


def _alternated(logs: mx.array) -> mx.array:
    """One normalisation of columns, then of rows, of the logarithms [S, S, N]."""
    return _log_softmax(_log_softmax(logs, COLUMNS), ROWS)


def _log_softmax(square: mx.array, axis: int) -> mx.array:
    return square - mx.logsumexp(square, axis, keepdims=True)


def _couplings(one: mx.array, other: mx.array) -> mx.array:
    """A^T B [S, S, N]. For A = B = P, its off-diagonal is minus that of the Hessian diag(column sums) - P^T P."""
    return (one[:, :, None] * other[:, None]).sum(0)


def _solve_laplacian(couplings: mx.array, flows: mx.array, floor: float) -> mx.array:
    """x [S, N] with sum_k c_jk (x_j - x_k) = sum_k f_jk and the last x zero, for symmetric c and antisymmetric f.

    Elimination of one stream after the other that only adds couplings and never subtracts, and adds to a flow only what
    is as small as its coupling: accurate however weak couplings are, as no sum of flows has to vanish by cancelling.
    A stream's coupling to all others together is taken to be at least `floor`.
    """
    eliminated = []
    for _ in range(len(flows) - 1):
        coupling, flow = couplings[0, 1:], flows[0, 1:]
        total = mx.maximum(coupling.sum(0), floor)
        share = coupling / total
        eliminated.append((share, flow.sum(0) / total))
        passed = share[:, None] * flow
        flows = flows[1:, 1:] + passed - passed.transpose(1, 0, 2)
        couplings = couplings[1:, 1:] + coupling[:, None] * share
    x = mx.zeros_like(flows[0])
    for share, value in reversed(eliminated):
        x = mx.concatenate([(value + (share * x).sum(0))[None], x])
    return x
