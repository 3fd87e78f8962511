"""Wirings whose state is n segments of width W = C/m, in MLX. Mirrors torch/segments.py.

Axes: B batch, T time, N = B*T tokens, S segments (n), M parts of the width (m), K rows of coefficients, which are
float32 and tokens-last: read and write [M, S, N], mix [S, S, N] (N = 1 if static). The specification is
mhc_exp.topology.reference.segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx
from mlx import nn

from mhc_exp.config.variants import Segments
from mhc_exp.mlx.wiring import Coefficients, Observer, Sublayer
from mhc_exp.topology.layout import NORM_EPS
from mhc_exp.topology.segments import belongs, connection_shapes, rows, temperature


class Routes(NamedTuple):
    """Read [M, S, N], write [M, S, N] (diagonal: [1, S, N]) and mix as applied [S, S, N]."""

    read: mx.array
    write: mx.array
    mix: mx.array

    def summary(self) -> Coefficients:
        """As streams report theirs: the weight of a segment is the length of its column."""
        return Coefficients(mx.sqrt(mx.square(self.read).sum(0)), mx.sqrt(mx.square(self.write).sum(0)), self.mix)


class SegmentStreams(nn.Module):
    """n segments: expand, one connection per sublayer, reduce."""

    def __init__(self, variant: Segments, width: int, depth: int):
        super().__init__()
        self.connections = [SegmentConnection(variant, width) for _ in range(2 * depth)]
        self.expand, self.reduce = SegmentExpand(variant, width), SegmentReduce(variant, width)

    def __call__(self, x: mx.array, sublayers: Sequence[Sublayer], observe: Observer | None = None) -> mx.array:
        batch, time, width = x.shape
        segments = self.expand(x.reshape(-1, width))
        for connection, sublayer in zip(self.connections, sublayers, strict=True):
            routes = connection.routes(segments)
            y = sublayer(connection.read(segments, routes).reshape(batch, time, width))
            segments = connection.write(segments, y.reshape(-1, width), routes)
            if observe is not None:
                observe(routes.summary(), segments)
        return self.reduce(segments).reshape(batch, time, width)


class SegmentConnection(nn.Module):
    """One connection: x' = A^T x + B^T F(A_0^T x) (arXiv:2503.14125 eq. 8, arXiv:2511.11238 eq. 6)."""

    def __init__(self, variant: Segments, width: int):
        super().__init__()
        self._variant, self._rows, self._temperature = variant, rows(variant), temperature(variant, width)
        shapes = connection_shapes(variant, width)
        self.bias = mx.zeros(shapes["bias"])
        if variant.coefficients == "dynamic":
            norm = nn.LayerNorm if variant.norm == "layer" else nn.RMSNorm
            self.norm = norm(width // variant.fractions, eps=NORM_EPS)
            self.weight = mx.zeros(shapes["weight"])
            self.scale = mx.zeros(shapes["scale"])

    def routes(self, x: mx.array) -> Routes:
        """Coefficients predicted from the segments x [N, S, W], always in float32."""
        raw = self._raw(x.astype(mx.float32))
        return Routes(*(raw[part] for part in self._rows))

    def _raw(self, x: mx.array) -> mx.array:
        """[K, S, N] coefficients."""
        bias = self.bias[:, :, None]
        if self._variant.coefficients == "static":
            return bias
        projected = (self.norm(x) @ self.weight.T).transpose(2, 1, 0) / self._temperature
        dynamic = mx.tanh(projected) if self._variant.squash == "tanh" else projected
        if self._variant.scale == "entry":
            return bias + self.scale[:, :, None] * dynamic
        read, write, mix = (dynamic[part] for part in self._rows)
        return bias + mx.concatenate([self.scale[0] * read, self.scale[1] * write, self.scale[0] * mix])

    def read(self, x: mx.array, routes: Routes) -> mx.array:
        """Input of the sublayer [N, C] from the segments [N, S, W]."""
        return (routes.read.transpose(2, 0, 1) @ x).flatten(1)

    def write(self, x: mx.array, y: mx.array, routes: Routes) -> mx.array:
        """New segments [N, S, W] from the old ones and the sublayer's output y [N, C]."""
        parts = y.astype(x.dtype).reshape(len(y), self._variant.fractions, -1)
        write, mix = routes.write.transpose(2, 1, 0), routes.mix.transpose(2, 0, 1)
        diagonal = self._variant.write == "diagonal"
        return mix @ x + (write * _repeat(parts, self._variant.segments) if diagonal else write @ parts)


class SegmentExpand(nn.Module):
    """The m parts of the embedding over and over, or a learned linear map of it (arXiv:2511.11238 eq. 3)."""

    def __init__(self, variant: Segments, width: int):
        super().__init__()
        self._variant, self._segment = variant, width // variant.fractions
        if variant.expand == "linear":
            self.weight = mx.zeros((variant.segments * self._segment, width))

    def __call__(self, x: mx.array) -> mx.array:
        """[N, C] -> [N, S, W]."""
        if "weight" in self:
            return (x @ self.weight.T).reshape(len(x), -1, self._segment)
        return _repeat(x.reshape(len(x), -1, self._segment), self._variant.segments)


class SegmentReduce(nn.Module):
    """Mean of the segments of each part, or a learned linear map (arXiv:2511.11238 eq. 4), perhaps after a norm."""

    def __init__(self, variant: Segments, width: int):
        super().__init__()
        self._variant, self._width = variant, width
        virtual = variant.segments * width // variant.fractions
        if variant.reduce == "linear":
            self.weight = mx.zeros((width, virtual))
        self._belongs = mx.array(belongs(variant))

    def __call__(self, x: mx.array) -> mx.array:
        """[N, S, W] -> [N, C]."""
        if self._variant.reduce_norm == "group":
            groups = x.reshape(len(x), -1, self._width)
            size = mx.square(groups.astype(mx.float32)).mean(-1, keepdims=True)
            x = (groups * mx.rsqrt(size + NORM_EPS).astype(x.dtype)).reshape(x.shape)
        if "weight" in self:
            return x.flatten(1) @ self.weight.T
        parts = self._belongs.astype(x.dtype)
        return ((parts @ x) / parts.sum(1, keepdims=True)).flatten(1)


def _repeat(parts: mx.array, segments: int) -> mx.array:
    """[N, M, W] -> [N, S, W]: segment j is part j mod M."""
    return mx.tile(parts, (1, -(-segments // parts.shape[1]), 1))[:, :segments]
