"""Connections of families other than `streams`, in MLX; and which one a variant needs.

Mirrors torch/library/families.py. Axes: * any leading axes, N all of them together, S streams or segments, C width, W
width of a segment.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx import nn

from mhc_exp.config.standalone import Standalone, check_width
from mhc_exp.config.variants import Segments, Sparse, Streams
from mhc_exp.mlx import segments, sparse
from mhc_exp.mlx.library.connection import (
    Connection,
    Entered,
    SingleLayerNorm,
    SinglePrecision,
    StreamConnection,
)
from mhc_exp.mlx.wiring import Coefficients
from mhc_exp.topology import segments as segment_values
from mhc_exp.topology import sparse as sparse_values
from mhc_exp.topology.layout import NORM_EPS, mixing_share


def connect(variant: Standalone, width: int, index: int = 0, count: int = 1, *, seed: int = 0) -> Connection:
    """Connection number `index` of `count` of a checked variant. Raises ConfigError if it cannot divide the width."""
    check_width(variant, width)
    if isinstance(variant, Streams):
        return StreamConnection(variant, width, index, count, seed=seed)
    kind = SegmentConnection if isinstance(variant, Segments) else SparseConnection
    return kind(variant, width, index, count, seed)  # type: ignore[arg-type]


class _Routed(Connection):
    """What has `routes`, and reads and writes by them."""

    inner: Any
    """The class of the laboratory's connection."""

    def _enter(self, x: mx.array) -> tuple[mx.array, Entered]:
        found = self.inner.routes(self, x)
        return self.inner.read(self, x, found), Entered(x, found)

    def coefficients(self, x: mx.array) -> Coefficients:
        """Read and write weights [S, N], mix as applied [S, S, N] (None: the identity) for streams [*, S, W]; N = 1 if
        static.
        """
        return self.inner.routes(self, x.reshape(-1, *self.state_shape)).summary()

    def _leave(self, entered: Entered, y: mx.array) -> mx.array:
        return self.inner.write(self, entered.streams, y, entered.found)


class _SingleRMSNorm(SinglePrecision, nn.RMSNorm):
    """The norm of VWN's connections."""


class SegmentConnection(_Routed, segments.SegmentConnection):  # pyright: ignore[reportIncompatibleMethodOverride]
    """x' = A^T x + B^T F(A_0^T x) on segments [*, S, W] (arXiv:2503.14125 eq. 8, arXiv:2511.11238 eq. 6)."""

    inner = segments.SegmentConnection

    def __init__(self, variant: Segments, width: int, index: int, count: int, seed: int):
        super().__init__(variant, width)
        self.width, self.index = width, index
        if "norm" in self:
            norm = SingleLayerNorm if variant.norm == "layer" else _SingleRMSNorm
            self.norm = norm(width // variant.fractions, eps=NORM_EPS)
        self._load(segment_values.connection_values(variant, width, ""), "")


class SparseConnection(_Routed, sparse.SparseConnection):  # pyright: ignore[reportIncompatibleMethodOverride]
    """x'_I = H_res x_I + p * H_post F(H_pre x) for the active streams I, on [*, S, C] (arXiv:2607.14530)."""

    inner = sparse.SparseConnection

    def __init__(self, variant: Sparse, width: int, index: int, count: int, seed: int):
        super().__init__(variant, width, mixing_share(variant.mix, count))
        self.width, self.index = width, index
        prefix = f"topology.connections.{index}."
        self._load(sparse_values.connection_values(variant, width, index, prefix, seed), prefix)
