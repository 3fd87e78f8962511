"""Doubly stochastic matrices from square logits, in float64 numpy: Sinkhorn-Knopp's iterations and their limit."""

from __future__ import annotations

import numpy as np

from mhc_exp.topology.newton import FLOOR, TOLERANCE, WARMEST_RANGE
from mhc_exp.topology.reference.arithmetic import log_softmax, softmax

ROWS, COLUMNS = -1, -2
"""The axis to sum over for the sums of rows and of columns of [..., S, S]."""


def sinkhorn(
    logits: np.ndarray, iterations: int = 20, order: str = "rows_last", start: str = "exp", eps: float = 0.0
) -> np.ndarray:
    """Sinkhorn-Knopp on logits [..., S, S].

    - paper (arXiv:2512.24880 eq. 9): start=exp, order=rows_last: M <- T_r(T_c(M)), rows exact;
    - DeepSeek-V4 (TileKernels): start=softmax, order=columns_last, eps=1e-6: row softmax + eps, columns, then
      iterations-1 times (rows, columns), every sum + eps; columns exact up to eps, applied transposed;
    - seed demo: start=exp, order=columns_last.

    Without an eps all is in logarithms, where no logits are too far apart.
    """
    first, last = (COLUMNS, ROWS) if order == "rows_last" else (ROWS, COLUMNS)
    if eps == 0:
        if start == "softmax":
            logits = log_softmax(log_softmax(logits), last)
        for _ in range(iterations - (start == "softmax")):
            logits = log_softmax(log_softmax(logits, first), last)
        return np.exp(logits)

    def normalise(matrix: np.ndarray, axis: int) -> np.ndarray:
        return matrix / (matrix.sum(axis=axis, keepdims=True) + eps)

    if start == "softmax":
        matrix = normalise(softmax(logits) + eps, last)
        iterations -= 1
    else:
        matrix = np.exp(logits - logits.max(axis=(-1, -2), keepdims=True))
    for _ in range(iterations):
        matrix = normalise(normalise(matrix, first), last)
    return matrix


def birkhoff_projection(logits: np.ndarray, steps: int = 200) -> np.ndarray:
    """The limit of Sinkhorn-Knopp on logits [..., S, S]: the doubly stochastic exp(logits + f 1^T + 1 g^T).

    It is the entropic projection of arXiv:2606.07574, whose dual in g alone (f from the row sums) is
    sum_i logsumexp_j(logits_ij + g_j) - sum_j g_j: convex, with gradient (column sums - 1) and the Hessian below. A
    Newton step is damped by log(1 + r) / r with r its range, which never overshoots: the third derivative of logsumexp
    along a direction is at most the direction's range times the second. Logits that are far apart begin divided by a
    temperature, which is halved whenever the step or the error has become small.

    ArithmeticError if the sums are not one after `steps` steps; NaN where logits are not finite.
    """
    streams, rounding = logits.shape[-1], np.finfo(np.float64).eps
    temperature = np.maximum(1, np.ptp(logits, axis=(-1, -2)) / WARMEST_RANGE)
    logs, worst = _alternated(_alternated(logits / temperature[..., None, None])), np.array(np.nan)
    for _ in range(steps):
        matrix = np.exp(logs)
        error = 1 - matrix.sum(axis=COLUMNS)
        worst = np.abs(error).max(axis=-1)
        open_ones = ~((temperature == 1) & (worst <= TOLERANCE * rounding * streams) | np.isnan(worst))
        if not open_ones.any():
            return matrix
        hessian = _hessian(np.nan_to_num(matrix)) + FLOOR * rounding * np.eye(streams)
        step = np.linalg.solve(hessian, error[..., None])[..., 0]
        reach = np.maximum(np.ptp(step, axis=-1), np.finfo(np.float64).tiny)
        moved = log_softmax(logs + (np.log1p(reach) / reach)[..., None, None] * step[..., None, :])
        cooler = np.where((reach < 1) | (worst < 0.1), np.maximum(1, temperature / 2), temperature)
        moved = _alternated(moved * (temperature / cooler)[..., None, None])
        logs = np.where(open_ones[..., None, None], moved, logs)
        temperature = np.where(open_ones, cooler, temperature)
    raise ArithmeticError(f"sums are off by {np.nanmax(worst):.1e} after {steps} Newton steps")


def _alternated(logs: np.ndarray) -> np.ndarray:
    """One normalisation of columns, then of rows, of the logarithms [..., S, S]."""
    return log_softmax(log_softmax(logs, COLUMNS), ROWS)


def _hessian(matrix: np.ndarray) -> np.ndarray:
    """diag(column sums) - P^T P for a P of unit row sums [..., S, S], the Laplacian of couplings sum_i P_ij P_ik."""
    streams = matrix.shape[-1]
    couplings = np.swapaxes(matrix, -1, -2) @ matrix * (1 - np.eye(streams))
    return couplings.sum(axis=-1)[..., None] * np.eye(streams) - couplings
