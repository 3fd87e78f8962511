"""Wirings that repeat the middle blocks inside hyper-connections, in MLX. Mirrors torch/looped.py.

Axes: B batch, T time, N = B*T tokens, S streams, C width. The specification is mhc_exp.topology.reference.looped.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
from mlx import nn

from mhc_exp.config.variants import Looped
from mhc_exp.mlx.expansion import Expand
from mhc_exp.mlx.streams import HyperConnection, prepared
from mhc_exp.mlx.wiring import Observer, Sublayer, contract, with_residuals
from mhc_exp.topology.layout import mixing_share
from mhc_exp.topology.looped import connection, middle, position_shapes


class LoopedStreams(nn.Module):
    """Begin blocks, the middle blocks in every loop inside a connection of its own, end blocks (arXiv:2604.21254)."""

    def __init__(self, variant: Looped, width: int, depth: int):
        super().__init__()
        self._middle = middle(variant, depth)
        self.expand = Expand(variant.expand, variant.streams, width)
        own, share = connection(variant), mixing_share(variant.mix, variant.loops)
        self.connections = [HyperConnection(own, width, share) for _ in range(variant.loops)]
        shapes = position_shapes(variant, width)
        if shapes:
            self.loop_positions = mx.zeros(shapes["loop_positions"])

    def __call__(self, x: mx.array, sublayers: Sequence[Sublayer], observe: Observer | None = None) -> mx.array:
        batch, time, width = x.shape
        first, stop = self._middle
        begin, looped = with_residuals(sublayers[: 2 * first]), with_residuals(sublayers[2 * first : 2 * stop])
        streams = self.expand(begin(x).reshape(-1, width))
        known = prepared(self.connections)
        for index, (around, static) in enumerate(zip(self.connections, known, strict=True)):
            coefficients = around.coefficients(streams, static)
            y = looped(contract(streams, coefficients.read).reshape(batch, time, width))
            if "loop_positions" in self:
                y = y + self.loop_positions[index]
            streams = around.write(streams, y.reshape(-1, width), coefficients)
            if observe is not None:
                observe(coefficients, streams)
        return with_residuals(sublayers[2 * stop :])(streams.mean(1).reshape(batch, time, width))
