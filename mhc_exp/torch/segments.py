"""Wirings whose state is n segments of width W = C/m, in PyTorch. Mirrors mlx/segments.py.

Axes: B batch, T time, N = B*T tokens, S segments (n), M parts of the width (m), K rows of coefficients, which are
float32 and tokens-last: read and write [M, S, N], mix [S, S, N] (N = 1 if static). The specification is
mhc_exp.topology.reference.segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mhc_exp.config.variants import Segments
from mhc_exp.topology.layout import NORM_EPS
from mhc_exp.topology.segments import belongs, connection_shapes, rows, temperature
from mhc_exp.torch.wiring import Coefficients, Observer, Sublayer, at_least_single


class Routes(NamedTuple):
    """Read [M, S, N], write [M, S, N] (diagonal: [1, S, N]) and mix as applied [S, S, N]."""

    read: Tensor
    write: Tensor
    mix: Tensor

    def summary(self) -> Coefficients:
        """As streams report theirs: the weight of a segment is the length of its column."""
        return Coefficients(self.read.square().sum(0).sqrt(), self.write.square().sum(0).sqrt(), self.mix)


class SegmentStreams(nn.Module):
    """n segments: expand, one connection per sublayer, reduce."""

    def __init__(self, variant: Segments, width: int, depth: int):
        super().__init__()
        built = nn.ModuleList(SegmentConnection(variant, width) for _ in range(2 * depth))
        self.connections: Sequence[SegmentConnection] = built  # type: ignore[assignment]
        self.expand, self.reduce = SegmentExpand(variant, width), SegmentReduce(variant, width)

    def forward(self, x: Tensor, sublayers: Sequence[Sublayer], observe: Observer | None = None) -> Tensor:
        batch, time, width = x.shape
        segments = self.expand(x.reshape(-1, width))
        for connection, sublayer in zip(self.connections, sublayers, strict=True):
            routes = connection.routes(segments)
            y = sublayer(connection.read(segments, routes).view(batch, time, width))
            segments = connection.write(segments, y.reshape(-1, width), routes)
            if observe is not None:
                observe(routes.summary(), segments)
        return self.reduce(segments).view(batch, time, width)


class SegmentConnection(nn.Module):
    """One connection: x' = A^T x + B^T F(A_0^T x) (arXiv:2503.14125 eq. 8, arXiv:2511.11238 eq. 6)."""

    def __init__(self, variant: Segments, width: int):
        super().__init__()
        self.variant, self.rows, self.temperature = variant, rows(variant), temperature(variant, width)
        shapes = connection_shapes(variant, width)
        self.bias = nn.Parameter(torch.zeros(shapes["bias"]))
        if variant.coefficients == "dynamic":
            norm = nn.LayerNorm if variant.norm == "layer" else nn.RMSNorm
            self.norm = norm(width // variant.fractions, eps=NORM_EPS)
            self.weight = nn.Parameter(torch.zeros(shapes["weight"]))
            self.scale = nn.Parameter(torch.zeros(shapes["scale"]))

    def routes(self, x: Tensor) -> Routes:
        """Coefficients predicted from the segments x [N, S, W], always in float32."""
        with torch.autocast(x.device.type, enabled=False):
            raw = self._raw(at_least_single(x))
            return Routes(*(raw[part] for part in self.rows))

    def _raw(self, x: Tensor) -> Tensor:
        """[K, S, N] coefficients."""
        bias = self.bias.unsqueeze(2)
        if self.variant.coefficients == "static":
            return bias
        projected = functional.linear(self.norm(x), self.weight).permute(2, 1, 0) / self.temperature
        dynamic = torch.tanh(projected) if self.variant.squash == "tanh" else projected
        if self.variant.scale == "entry":
            return torch.addcmul(bias, self.scale.unsqueeze(2), dynamic)
        read, write, mix = (dynamic[part] for part in self.rows)
        return bias + torch.cat([self.scale[0] * read, self.scale[1] * write, self.scale[0] * mix])

    def read(self, x: Tensor, routes: Routes) -> Tensor:
        """Input of the sublayer [N, C] from the segments [N, S, W]."""
        with torch.autocast(x.device.type, enabled=False):
            return (_per_token(routes.read, x) @ x).flatten(1)

    def write(self, x: Tensor, y: Tensor, routes: Routes) -> Tensor:
        """New segments [N, S, W] from the old ones and the sublayer's output y [N, C]; in the dtype of x throughout."""
        with torch.autocast(x.device.type, enabled=False):
            parts = y.to(x.dtype).view(len(y), self.variant.fractions, x.shape[2])
            write, mix = _per_token(routes.write.transpose(0, 1), x), _per_token(routes.mix, x)
            diagonal = self.variant.write == "diagonal"
            return mix @ x + (write * _repeat(parts, self.variant.segments) if diagonal else write @ parts)


def _per_token(coefficients: Tensor, x: Tensor) -> Tensor:
    """[I, J, N] -> [N, I, J] in the dtype of x, in order in memory: else products of small matrices take longer."""
    return coefficients.permute(2, 0, 1).contiguous().to(x.dtype)


class SegmentExpand(nn.Module):
    """The m parts of the embedding over and over, or a learned linear map of it (arXiv:2511.11238 eq. 3)."""

    def __init__(self, variant: Segments, width: int):
        super().__init__()
        self.variant, self.segment = variant, width // variant.fractions
        learned = variant.expand == "linear"
        self.weight = nn.Parameter(torch.zeros(variant.segments * self.segment, width)) if learned else None

    def forward(self, x: Tensor) -> Tensor:
        """[N, C] -> [N, S, W]."""
        with torch.autocast(x.device.type, enabled=False):
            if self.weight is not None:
                return functional.linear(x, self.weight.to(x.dtype)).view(len(x), self.variant.segments, self.segment)
            return _repeat(x.view(len(x), self.variant.fractions, self.segment), self.variant.segments)


class SegmentReduce(nn.Module):
    """Mean of the segments of each part, or a learned linear map (arXiv:2511.11238 eq. 4), perhaps after a norm."""

    def __init__(self, variant: Segments, width: int):
        super().__init__()
        self.variant, self.width = variant, width
        virtual = variant.segments * width // variant.fractions
        self.weight = nn.Parameter(torch.zeros(width, virtual)) if variant.reduce == "linear" else None
        self.belongs: Tensor
        self.register_buffer("belongs", torch.from_numpy(belongs(variant)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, S, W] -> [N, C]."""
        with torch.autocast(x.device.type, enabled=False):
            if self.variant.reduce_norm == "group":
                groups = x.reshape(len(x), self.variant.segments // self.variant.fractions, self.width)
                size = at_least_single(groups).square().mean(-1, keepdim=True)
                x = (groups * torch.rsqrt(size + NORM_EPS).to(x.dtype)).view_as(x)
            if self.weight is not None:
                return functional.linear(x.flatten(1), self.weight.to(x.dtype))
            parts = self.belongs.to(x.dtype)
            return ((parts @ x) / parts.sum(1, keepdim=True)).flatten(1)


def _repeat(parts: Tensor, segments: int) -> Tensor:
    """[N, M, W] -> [N, S, W]: segment j is part j mod M."""
    return parts.repeat(1, -(-segments // parts.shape[1]), 1)[:, :segments]
