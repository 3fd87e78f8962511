"""Wirings that repeat the middle blocks inside hyper-connections, in PyTorch. Mirrors mlx/looped.py.

Axes: B batch, T time, N = B*T tokens, S streams, C width. The specification is mhc_exp.topology.reference.looped.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mhc_exp.config.variants import Looped
from mhc_exp.topology.layout import mixing_share
from mhc_exp.topology.looped import connection, middle, position_shapes
from mhc_exp.torch.expansion import Expand
from mhc_exp.torch.kernels.eager import Eager
from mhc_exp.torch.streams import HyperConnection
from mhc_exp.torch.wiring import Observer, Sublayer, with_residuals


class LoopedStreams(nn.Module):
    """Begin blocks, the middle blocks in every loop inside a connection of its own, end blocks (arXiv:2604.21254)."""

    def __init__(self, variant: Looped, width: int, depth: int):
        super().__init__()
        self.middle = middle(variant, depth)
        self.kernels: Eager = Eager()
        """The tier that computes the connections; mhc_exp.torch.kernels.choice puts a faster one here."""
        self.expand = Expand(variant.expand, variant.streams, width)
        own, share = connection(variant), mixing_share(variant.mix, variant.loops)
        built = nn.ModuleList(HyperConnection(own, width, share) for _ in range(variant.loops))
        self.connections: Sequence[HyperConnection] = built  # type: ignore[assignment]
        shapes = position_shapes(variant, width)
        self.loop_positions = nn.Parameter(torch.zeros(shapes["loop_positions"])) if shapes else None

    def forward(self, x: Tensor, sublayers: Sequence[Sublayer], observe: Observer | None = None) -> Tensor:
        batch, time, width = x.shape
        first, stop = self.middle
        begin, looped = with_residuals(sublayers[: 2 * first]), with_residuals(sublayers[2 * first : 2 * stop])
        streams = self.expand(begin(x).reshape(-1, width))
        known = self.kernels.prepare(self.connections)
        for index, (around, prepared) in enumerate(zip(self.connections, known, strict=True)):
            coefficients, u, streams = self.kernels.enter(around, streams, prepared)
            y = looped(u.view(batch, time, width))
            if self.loop_positions is not None:
                y = y + self.loop_positions[index]
            streams = self.kernels.write(streams, y.reshape(-1, width), coefficients)
            if observe is not None:
                observe(coefficients, streams)
        return with_residuals(sublayers[2 * stop :])(streams.mean(1).view(batch, time, width))
