"""Constraints and charts as plain functions: from logits to mixing weights or matrices.

Axes: K logits, S streams or states, * any further axes (tokens), which come last as in mhc_exp.torch.charts.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mhc_exp.config import standalone
from mhc_exp.topology.charts import CHARTS as TABLE
from mhc_exp.torch import charts


def mixing_matrix(logits: Tensor, streams: int, chart: str = "sinkhorn", **keys: Any) -> Tensor:
    """[K, *] -> [S, S, *] by any chart of `variant.mix.chart`; `keys` are the others of `variant.mix`: `iterations=20`,
    `solver="newton"`, `order="columns_last"`. Row i makes new stream i.
    """
    spec = standalone.mix(chart, streams, keys)
    if chart == "identity":
        raise ValueError("the identity has no logits: torch.eye(streams)")
    count = TABLE[chart].logits(streams, spec.expansion)
    if logits.shape[0] != count:
        raise ValueError(f"{chart} of {streams} streams needs {count} logits along axis 0, got {list(logits.shape)}")
    matrix = charts.chart(logits.reshape(count, -1), streams, spec)
    matrix = matrix.transpose(0, 1) if spec.apply == "transposed" else matrix
    return matrix.view(streams, streams, *logits.shape[1:])


def doubly_stochastic(logits: Tensor, **keys: Any) -> Tensor:
    """[S, S, *] -> [S, S, *] with rows and columns that sum to one: Sinkhorn-Knopp (arXiv:2512.24880 eq. 9).

    `keys` are those of `mixing_matrix`.
    """
    return mixing_matrix(logits.flatten(0, 1), logits.shape[0], "sinkhorn", **keys)


def simplex(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """[S, *] -> weights [S, *] that are positive and sum to one."""
    return (logits / temperature).softmax(0)


def identity_preserving(logits: Tensor, floor: float = 0.1, temperature: float = 1.0) -> Tensor:
    """[S, *] -> weights [S, *] that sum to one, of which the first (the newest state's) is at least `floor`."""
    weights = (1 - floor) * simplex(logits, temperature)
    return weights + floor * (weights.new_tensor(range(len(weights))) == 0).view(-1, *[1] * (weights.dim() - 1))
