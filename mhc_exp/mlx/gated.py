"""Wirings that gate n streams and never mix them, in MLX. Mirrors torch/gated.py.

Axes: B batch, T time, N = B*T tokens, S streams, C width. The specification is mhc_exp.topology.reference.gated.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
from mlx import nn

from mhc_exp.config.variants import Gated
from mhc_exp.mlx.expansion import Expand
from mhc_exp.mlx.wiring import Coefficients, Observer, Sublayer
from mhc_exp.topology.gated import connection_shapes, read_shapes
from mhc_exp.topology.layout import NORM_EPS


class GatedStreams(nn.Module):
    """n streams: expand, one gated connection per sublayer, reduce."""

    def __init__(self, variant: Gated, width: int, depth: int):
        super().__init__()
        self._variant = variant
        self.expand = Expand(variant.expand, variant.streams, width)
        self.connections = [GatedConnection(variant, width) for _ in range(2 * depth)]
        if variant.reduce == "gate":
            self.readout = GatedRead(variant, width)

    def __call__(self, x: mx.array, sublayers: Sequence[Sublayer], observe: Observer | None = None) -> mx.array:
        batch, time, width = x.shape
        streams = self.expand(x.reshape(-1, width))
        for connection, sublayer in zip(self.connections, sublayers, strict=True):
            taken, seen, write = connection.before(sublayer.norm(streams), observe is not None)
            y = sublayer.inner(taken.reshape(batch, time, width))
            streams = streams + write[:, :, None] * y.reshape(-1, 1, width)
            if observe is not None and seen is not None:
                observe(Coefficients(seen, write.T, None), streams)
        return self.reduce(streams).reshape(batch, time, width)

    def reduce(self, x: mx.array) -> mx.array:
        """[N, S, C] -> [N, C]."""
        if self._variant.reduce == "gate":
            normed = self.readout.scaled(x * mx.rsqrt(mx.square(x).mean(-1, keepdims=True) + NORM_EPS))
            return (self.readout.gates(normed) * normed).mean(1)
        return x.sum(1) if self._variant.reduce == "sum" else x.mean(1)


class GatedRead(nn.Module):
    """mean_i G_i * R_i with G = sigmoid(W_u silu(W_d vec(R) / n)), always in float32 (arXiv:2608.30320)."""

    def __init__(self, variant: Gated, width: int):
        super().__init__()
        shapes = read_shapes(variant, width)
        self.gain = mx.zeros(shapes["gain"])
        self.down = mx.zeros(shapes["down"])
        self.up = mx.zeros(shapes["up"])

    def scaled(self, normed: mx.array) -> mx.array:
        """Normed streams [N, S, C] times the gains of this read."""
        return normed.astype(mx.float32) * self.gain

    def gates(self, normed: mx.array) -> mx.array:
        """G [N, S, C] from normed streams [N, S, C]."""
        hidden = nn.silu(normed.flatten(1) @ self.down.T / normed.shape[1])
        return mx.sigmoid(hidden @ self.up.T).reshape(normed.shape)


class GatedConnection(GatedRead):
    """A gated read, and write weights s = 2 sigmoid(W_w vec(R) / n)."""

    def __init__(self, variant: Gated, width: int):
        super().__init__(variant, width)
        self.write = mx.zeros(connection_shapes(variant, width)["write"])

    def before(self, normed: mx.array, observed: bool) -> tuple[mx.array, mx.array | None, mx.array]:
        """What the sublayer reads [N, C], mean gates [S, N] over channels and streams if they are observed, and s
        [N, S]. Normed streams and gates, each as large as the state, end here.
        """
        normed = self.scaled(normed)
        gates = self.gates(normed)
        seen = gates.mean(2).T / normed.shape[1] if observed else None
        return (gates * normed).mean(1), seen, self.write_weights(normed)

    def write_weights(self, normed: mx.array) -> mx.array:
        """s [N, S] from normed streams [N, S, C]."""
        return 2 * mx.sigmoid(normed.flatten(1) @ self.write.T / normed.shape[1])
