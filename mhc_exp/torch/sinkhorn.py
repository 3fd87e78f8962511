"""Doubly stochastic matrices from square logits in PyTorch: Sinkhorn-Knopp and its limit. Mirrors mlx/sinkhorn.py.

Axes: S streams, N tokens, which come last. The specification is mhc_exp.topology.reference.sinkhorn.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mhc_exp.config.variants import Mix
from mhc_exp.topology.newton import FLOOR, TOLERANCE, WARMEST_RANGE

ROWS, COLUMNS = 1, 0
"""The axis to sum over for the sums of rows and of columns of [S, S, N]."""


def sinkhorn(square: Tensor, spec: Mix) -> Tensor:
    """Doubly stochastic [S, S, N] from logits [S, S, N], in all conventions.

    The gradient is that of these very iterations; with solver=newton that of the limit, which is then reached.
    """
    first, last = (COLUMNS, ROWS) if spec.order == "rows_last" else (ROWS, COLUMNS)
    if spec.solver == "newton":
        return _BirkhoffProjection.apply(square, spec.iterations, first, last)  # type: ignore[return-value]
    iterations = spec.iterations

    if spec.eps == 0:
        # In logarithms, where normalising is log_softmax: one kernel each way, 1.5 times faster than sum and divide.
        if spec.start == "softmax":
            square = square.log_softmax(ROWS).log_softmax(last)
            iterations -= 1
        for _ in range(iterations):
            square = square.log_softmax(first).log_softmax(last)
        return square.exp()

    def normalise(matrix: Tensor, axis: int) -> Tensor:
        return matrix / (matrix.sum(axis, keepdim=True) + spec.eps)

    if spec.start == "softmax":
        matrix = normalise(square.softmax(ROWS) + spec.eps, last)
        iterations -= 1
    else:
        matrix = (square - square.amax((0, 1), keepdim=True)).exp()
    for _ in range(iterations):
        matrix = normalise(normalise(matrix, first), last)
    return matrix


class _BirkhoffProjection(torch.autograd.Function):
    """The limit of Sinkhorn-Knopp by Newton's method on the dual, with the gradient of the limit (arXiv:2606.07574).

    The method is that of topology.reference.sinkhorn.birkhoff_projection. A token whose sums are one is left alone, and
    on a CPU the steps end when all are. Steps as many as topology.newton.steps_needed reach the limit; fewer leave
    a matrix whose sums differ from one along one axis, with a gradient that is nearly that of the limit.
    """

    @staticmethod
    def forward(ctx, square: Tensor, steps: int, first: int, last: int) -> Tensor:  # type: ignore[override]
        rounding = torch.finfo(square.dtype).eps
        temperature = ((square.amax((0, 1)) - square.amin((0, 1))) / WARMEST_RANGE).clamp(min=1)
        square = _alternated(_alternated(square / temperature))
        for _ in range(steps):
            matrix = square.exp()
            error = 1 - matrix.sum(COLUMNS)
            worst = error.abs().amax(0)
            done = (temperature == 1) & (worst <= TOLERANCE * rounding * len(square))
            if square.is_cpu and bool(done.all()):
                break
            flows = (error.unsqueeze(1) - error) / len(square)
            step = _solve_laplacian(_couplings(matrix, matrix), flows, FLOOR * rounding)
            reach = (step.amax(0) - step.amin(0)).clamp(min=1e-30)
            moved = (square + torch.log1p(reach) / reach * step).log_softmax(ROWS)
            cools = ((reach < 1) | (worst < 0.1)) & ~done
            cooler = torch.where(cools, (temperature / 2).clamp(min=1), temperature)
            square = torch.where(done, square, _alternated(moved * (temperature / cooler)))
            temperature = cooler
        matrix = square.log_softmax(first).log_softmax(last).exp()
        ctx.save_for_backward(matrix)
        return matrix

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        """dZ = P * (dP - a 1^T - 1 b^T) with [I P; P^T I] [a; b] = the row and column sums of P * dP.

        Without a, as rows have unit sums: P^T P - I on b is a sum of differences over couplings, and so is its right
        side, sum_k sum_i P_ij P_ik (dP_ij - dP_ik). Both are therefore as accurate as they are small.
        """
        (matrix,) = ctx.saved_tensors
        flows = _couplings(matrix * gradient, matrix)
        flows, tiny = flows - flows.transpose(0, 1), torch.finfo(matrix.dtype).tiny
        differences = gradient - _solve_laplacian(_couplings(matrix, matrix), flows, tiny)
        return matrix * (differences - (matrix * differences).sum(ROWS, keepdim=True)), None, None, None


def _alternated(logs: Tensor) -> Tensor:
    """One normalisation of columns, then of rows, of the logarithms [S, S, N]."""
    return logs.log_softmax(COLUMNS).log_softmax(ROWS)


def _couplings(one: Tensor, other: Tensor) -> Tensor:
    """A^T B [S, S, N]. For A = B = P, its off-diagonal is minus that of the Hessian diag(column sums) - P^T P."""
    return (one.unsqueeze(2) * other.unsqueeze(1)).sum(0)


def _solve_laplacian(couplings: Tensor, flows: Tensor, floor: float) -> Tensor:
    """x [S, N] with sum_k c_jk (x_j - x_k) = sum_k f_jk and the last x zero, for symmetric c and antisymmetric f.

    Elimination of one stream after the other that only adds couplings and never subtracts, and adds to a flow only what
    is as small as its coupling: accurate however weak couplings are, as no sum of flows has to vanish by cancelling.
    A stream's coupling to all others together is taken to be at least `floor`.
    """
    eliminated = []
    for _ in range(len(flows) - 1):
        coupling, flow = couplings[0, 1:], flows[0, 1:]
        total = coupling.sum(0).clamp(min=floor)
        share = coupling / total
        eliminated.append((share, flow.sum(0) / total))
        passed = share.unsqueeze(1) * flow
        flows = flows[1:, 1:] + passed - passed.transpose(0, 1)
        couplings = couplings[1:, 1:] + coupling.unsqueeze(1) * share
    x = torch.zeros_like(flows[0])
    for share, value in reversed(eliminated):
        x = torch.cat([(value + (share * x).sum(0)).unsqueeze(0), x])
    return x
