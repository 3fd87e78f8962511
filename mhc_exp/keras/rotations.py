"""Rotations of streams in keras.ops: unit quaternions and Cayley's transform. Mirrors torch/rotations.py.

Axes: M rows, N tokens, which come last. Products are written out: a matrix product may run in TF32, which keeps three
digits of what has to be orthogonal.
"""

from __future__ import annotations

import numpy as np

from mhc_exp.keras.framework import Tensor, ops, precision


def product(one: Tensor, other: Tensor) -> Tensor:
    """Matrix product of [M, M, N] with [M, M, N], token by token."""
    total = one[:, 0, None] * other[0]
    for k in range(1, other.shape[0]):
        total = total + one[:, k, None] * other[k]
    return total


def cayley(skew: Tensor) -> Tensor:
    """(I - A)(I + A)^-1 = 2 (I + A)^-1 - I [M, M, N] of skew-symmetric A [M, M, N]."""
    identity = ops.eye(skew.shape[0], dtype=precision(skew))[:, :, None]
    return 2 * _inverse(identity + skew) - identity


def _inverse(matrix: Tensor) -> Tensor:
    """Gauss-Jordan without pivoting: for I + A with A skew every pivot is at least 1.

    Sweeping row and column k is one outer product: of the column with -1 in place of the pivot and the row with 1.
    """
    for k in range(matrix.shape[0]):
        here = ops.convert_to_tensor(np.arange(matrix.shape[0])[:, None] == k, precision(matrix))
        others = 1 - here
        column, row, pivot = matrix[:, k], matrix[k], matrix[k, k]
        swept = (column * others - here)[:, None] * (row * others + here)[None]
        matrix = matrix * (others[:, None] * others[None]) - swept / pivot
    return matrix
