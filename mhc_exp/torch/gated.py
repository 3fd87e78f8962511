"""Wirings that gate n streams and never mix them, in PyTorch. Mirrors mlx/gated.py.

Axes: B batch, T time, N = B*T tokens, S streams, C width. The specification is mhc_exp.topology.reference.gated.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mhc_exp.config.variants import Gated
from mhc_exp.topology.gated import connection_shapes, read_shapes
from mhc_exp.topology.layout import NORM_EPS
from mhc_exp.torch.expansion import Expand
from mhc_exp.torch.wiring import Coefficients, Observer, Sublayer, at_least_single


class GatedStreams(nn.Module):
    """n streams: expand, one gated connection per sublayer, reduce."""

    def __init__(self, variant: Gated, width: int, depth: int):
        super().__init__()
        self.variant = variant
        self.expand = Expand(variant.expand, variant.streams, width)
        built = nn.ModuleList(GatedConnection(variant, width) for _ in range(2 * depth))
        self.connections: Sequence[GatedConnection] = built  # type: ignore[assignment]
        if variant.reduce == "gate":
            self.readout = GatedRead(variant, width)

    def forward(self, x: Tensor, sublayers: Sequence[Sublayer], observe: Observer | None = None) -> Tensor:
        batch, time, width = x.shape
        streams = self.expand(x.reshape(-1, width))
        for connection, sublayer in zip(self.connections, sublayers, strict=True):
            taken, seen, write = connection.before(sublayer.norm(streams), observe is not None)
            y = sublayer.inner(taken.view(batch, time, width))
            streams = streams + write.unsqueeze(2) * y.reshape(-1, 1, width)
            if observe is not None and seen is not None:
                observe(Coefficients(seen, write.t(), None), streams)
        return self.reduce(streams).view(batch, time, width)

    def reduce(self, x: Tensor) -> Tensor:
        """[N, S, C] -> [N, C]."""
        if self.variant.reduce == "gate":
            normed = self.readout.scaled(x * torch.rsqrt(x.square().mean(-1, keepdim=True) + NORM_EPS))
            return (self.readout.gates(normed) * normed).mean(1)
        return x.sum(1) if self.variant.reduce == "sum" else x.mean(1)


class GatedRead(nn.Module):
    """mean_i G_i * R_i with G = sigmoid(W_u silu(W_d vec(R) / n)), always in float32 (arXiv:2608.30320)."""

    def __init__(self, variant: Gated, width: int):
        super().__init__()
        shapes = read_shapes(variant, width)
        self.gain = nn.Parameter(torch.zeros(shapes["gain"]))
        self.down = nn.Parameter(torch.zeros(shapes["down"]))
        self.up = nn.Parameter(torch.zeros(shapes["up"]))

    def scaled(self, normed: Tensor) -> Tensor:
        """Normed streams [N, S, C] times the gains of this read."""
        return at_least_single(normed) * self.gain

    def gates(self, normed: Tensor) -> Tensor:
        """G [N, S, C] from normed streams [N, S, C]."""
        with torch.autocast(normed.device.type, enabled=False):
            hidden = functional.silu(functional.linear(normed.flatten(1), self.down) / normed.shape[1])
            return torch.sigmoid(functional.linear(hidden, self.up)).view_as(normed)


class GatedConnection(GatedRead):
    """A gated read, and write weights s = 2 sigmoid(W_w vec(R) / n)."""

    def __init__(self, variant: Gated, width: int):
        super().__init__(variant, width)
        self.write = nn.Parameter(torch.zeros(connection_shapes(variant, width)["write"]))

    def before(self, normed: Tensor, observed: bool) -> tuple[Tensor, Tensor | None, Tensor]:
        """What the sublayer reads [N, C], mean gates [S, N] over channels and streams if they are observed, and s
        [N, S]. Normed streams and gates, each as large as the state, end here.
        """
        normed = self.scaled(normed)
        gates = self.gates(normed)
        seen = gates.mean(2).t() / normed.shape[1] if observed else None
        return (gates * normed).mean(1), seen, self.write_weights(normed)

    def write_weights(self, normed: Tensor) -> Tensor:
        """s [N, S] from normed streams [N, S, C]."""
        with torch.autocast(normed.device.type, enabled=False):
            return 2 * torch.sigmoid(functional.linear(normed.flatten(1), self.write) / normed.shape[1])
