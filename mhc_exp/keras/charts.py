"""Charts of H_res in keras.ops: from logits to the mixing matrix. Mirrors mhc_exp/torch/charts.py.

Axes: K logits, S streams, N tokens (1 if static). Tokens come last, as in PyTorch. Nothing is a matrix product (see
keras/rotations.py).
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable

import numpy as np

from mhc_exp.config.variants import Mix
from mhc_exp.keras import rotations
from mhc_exp.keras.framework import Tensor, ops, precision
from mhc_exp.keras.sinkhorn import COLUMNS, ROWS
from mhc_exp.keras.sinkhorn import sinkhorn as doubly_stochastic
from mhc_exp.topology import chart_tables


def chart(logits: Tensor, streams: int, spec: Mix, share: float = 1.0) -> Tensor:
    """The mixing matrix [S, S, N] before an `apply: transposed`; 1 - `share` of it is the identity (C-mHC's leak)."""
    matrix = CHARTS[spec.chart](logits, streams, spec)
    if share == 1.0:
        return matrix
    return share * matrix + (1 - share) * _identity(streams, logits)


def free(logits: Tensor, streams: int, spec: Mix) -> Tensor:
    """The logits themselves (HC)."""
    return ops.reshape(logits, (streams, streams, -1))


def exp(logits: Tensor, streams: int, spec: Mix) -> Tensor:
    """exp(logits): positive, unconstrained (the seed demo's HC)."""
    return ops.exp(free(logits, streams, spec))


def row_softmax(logits: Tensor, streams: int, spec: Mix) -> Tensor:
    """Unit row sums only."""
    return ops.softmax(free(logits, streams, spec), axis=ROWS)


def column_softmax(logits: Tensor, streams: int, spec: Mix) -> Tensor:
    """Unit column sums only."""
    return ops.softmax(free(logits, streams, spec), axis=COLUMNS)


def sinkhorn(logits: Tensor, streams: int, spec: Mix) -> Tensor:
    """Sinkhorn-Knopp (mHC), or its limit."""
    return doubly_stochastic(free(logits, streams, spec), spec)


def permutation(logits: Tensor, streams: int, spec: Mix) -> Tensor:
    """Softmax-weighted sum of all permutation matrices (mHC-lite)."""
    return ops.sum(_placed(_softmax(logits), chart_tables.permutations, streams), 2)


def kronecker(logits: Tensor, streams: int, spec: Mix) -> Tensor:
    """Kronecker product of 2 x 2 doubly stochastic matrices (KromHC)."""
    matrix = ops.ones_like(logits[:1])[None]
    pairs = ops.softmax(ops.reshape(logits, (logits.shape[0] // 2, 2, -1)), axis=1)
    for k in range(pairs.shape[0]):
        factor, size = _placed(pairs[k], chart_tables.circulant, 2), 2 ** (k + 1)
        matrix = ops.reshape(matrix[:, None, :, None] * factor[None, :, None, :], (size, size, -1))
    return matrix


def circulant(logits: Tensor, streams: int, spec: Mix) -> Tensor:
    """Softmax-weighted sum of the cyclic shifts (C-mHC)."""
    return _placed(_softmax(logits), chart_tables.circulant, streams)


def cayley(logits: Tensor, streams: int, spec: Mix) -> Tensor:
    """A rotation of the streams by Cayley's transform (JPmHC)."""
    signed = ops.concatenate([ops.zeros_like(logits[:1]), logits, -logits], axis=0)
    return rotations.cayley(_placed(signed, chart_tables.skew, streams))


def orthostochastic(logits: Tensor, streams: int, spec: Mix) -> Tensor:
    """Mean squares of the s x s blocks of a rotation of size ns (go-mHC)."""
    block = spec.expansion
    blocks = ops.reshape(cayley(logits, streams * block, spec), (streams, block, streams, block, -1))
    return ops.sum(ops.square(blocks), (1, 3)) / block


def quaternion(logits: Tensor, streams: int, spec: Mix) -> Tensor:
    """x -> q x conj(r) with two unit quaternions (oHC)."""
    raw = ops.reshape(logits, (2, 4, -1)) + _identity(4, logits)[0]
    units = raw / ops.sqrt(ops.sum(ops.square(raw), 1, keepdims=True) + spec.eps)
    signed = ops.concatenate([units, -units], axis=1)
    return rotations.product(
        _placed(signed[0], chart_tables.quaternion_left), _placed(signed[1], chart_tables.quaternion_right_conjugate)
    )


def transport(logits: Tensor, streams: int, spec: Mix) -> Tensor:
    """Entry by entry within what rows and columns still need (TBP-mHC)."""
    shares = ops.reshape(ops.sigmoid(logits), (streams - 1, streams - 1, -1))
    one = ops.ones_like(shares[0, 0])
    columns, entries = [one] * streams, []
    for i in range(streams - 1):
        row = one
        for j in range(streams - 1):
            after = functools.reduce(operator.add, columns[j + 1 :])
            low = _larger(_larger(row - after, columns[j] - (streams - 1 - i)), ops.zeros_like(one))
            entry = low + (-_larger(-row, -columns[j]) - low) * shares[i, j]
            entries.append(entry)
            row, columns[j] = row - entry, columns[j] - entry
        entries.append(row)
        columns[-1] = columns[-1] - row
    return ops.reshape(ops.stack([*entries, *columns]), (streams, streams, -1))


def sigmoid_diagonal(logits: Tensor, streams: int, spec: Mix) -> Tensor:
    """A forgetting rate for each stream (Hyperloop)."""
    return _identity(streams, logits) * ops.sigmoid(logits)[None]


CHARTS: dict[str, Callable[[Tensor, int, Mix], Tensor]] = {
    "free": free,
    "exp": exp,
    "row_softmax": row_softmax,
    "column_softmax": column_softmax,
    "sinkhorn": sinkhorn,
    "permutation": permutation,
    "kronecker": kronecker,
    "orthostochastic": orthostochastic,
    "transport": transport,
    "circulant": circulant,
    "quaternion": quaternion,
    "cayley": cayley,
    "sigmoid_diagonal": sigmoid_diagonal,
}
"""logits [K, N], S, spec -> matrix [S, S, N]; the identity chart has no logits and no matrix."""


def _larger(one: Tensor, other: Tensor) -> Tensor:
    """The maximum, whose gradient at a tie goes to `other` on every backend."""
    return ops.where(one > other, one, other)


def _identity(streams: int, like: Tensor) -> Tensor:
    """I as [S, S, 1]."""
    return ops.eye(streams, dtype=precision(like))[:, :, None]


def _softmax(logits: Tensor) -> Tensor:
    return ops.softmax(logits, axis=0)


def _placed(values: Tensor, table: Callable[..., np.ndarray], *sizes: int) -> Tensor:
    """`values` [K, N] put where the table of integers says: its shape, then N."""
    return ops.take(values, table(*sizes), axis=0)
