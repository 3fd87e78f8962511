"""Constraints and charts as plain functions in MLX: from logits to mixing weights or matrices.

Mirrors torch/library/charts.py. Axes: K logits, S streams or states, * any further axes (tokens), which come last as in
mhc_exp.mlx.charts.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from mhc_exp.config import standalone
from mhc_exp.mlx import charts
from mhc_exp.topology.charts import CHARTS as TABLE


def mixing_matrix(logits: mx.array, streams: int, chart: str = "sinkhorn", **keys: Any) -> mx.array:
    """[K, *] -> [S, S, *] by any chart of `variant.mix.chart`; `keys` are the others of `variant.mix`: `iterations=20`,
    `solver="newton"`, `order="columns_last"`. Row i makes new stream i.
    """
    spec = standalone.mix(chart, streams, keys)
    if chart == "identity":
        raise ValueError("the identity has no logits: mx.eye(streams)")
    count = TABLE[chart].logits(streams, spec.expansion)
    if logits.shape[0] != count:
        raise ValueError(f"{chart} of {streams} streams needs {count} logits along axis 0, got {list(logits.shape)}")
    matrix = charts.chart(logits.reshape(count, -1), streams, spec)
    matrix = matrix.swapaxes(0, 1) if spec.apply == "transposed" else matrix
    return matrix.reshape(streams, streams, *logits.shape[1:])


def doubly_stochastic(logits: mx.array, **keys: Any) -> mx.array:
    """[S, S, *] -> [S, S, *] with rows and columns that sum to one: Sinkhorn-Knopp (arXiv:2512.24880 eq. 9).

    `keys` are those of `mixing_matrix`.
    """
    return mixing_matrix(logits.flatten(0, 1), logits.shape[0], "sinkhorn", **keys)


def simplex(logits: mx.array, temperature: float = 1.0) -> mx.array:
    """[S, *] -> weights [S, *] that are positive and sum to one."""
    return mx.softmax(logits / temperature, axis=0)


def identity_preserving(logits: mx.array, floor: float = 0.1, temperature: float = 1.0) -> mx.array:
    """[S, *] -> weights [S, *] that sum to one, of which the first (the newest state's) is at least `floor`."""
    weights = (1 - floor) * simplex(logits, temperature)
    return mx.concatenate([weights[:1] + floor, weights[1:]])
