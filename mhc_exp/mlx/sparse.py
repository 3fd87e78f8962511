"""Wirings that read n streams and update few of them, in MLX. Mirrors torch/sparse.py.

Axes: B batch, T time, N = B*T tokens, S streams, K active streams, C width. Coefficients are float32: read [S, N],
active streams and their gates [N, K], write [K, N], mix [K, K, N]. The specification is topology.reference.sparse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx
from mlx import nn

from mhc_exp.config.variants import Sparse
from mhc_exp.mlx.charts import chart
from mhc_exp.mlx.expansion import Expand
from mhc_exp.mlx.wiring import Coefficients, Observer, Sublayer, contract, projected
from mhc_exp.topology.layout import NORM_EPS, mixing_share
from mhc_exp.topology.sparse import connection_shapes, mix_logits, routed


class Routes(NamedTuple):
    """Read [S, N], active streams [N, K], write [K, N] times their gates, and mix as applied [K, K, N] (None: the
    identity).
    """

    read: mx.array
    active: mx.array
    write: mx.array
    mix: mx.array | None

    def summary(self) -> Coefficients:
        """As streams report theirs: over all streams, write [S, N] zero and mix [S, S, N] the identity where nothing is
        active.
        """
        read, active, write, mix = self
        chosen = mx.eye(len(read))[active]  # [N, K, S]
        everywhere = mx.einsum("nks,kn->sn", chosen, write)
        if mix is None:
            return Coefficients(read, everywhere, None)
        inside = mx.einsum("nis,ijn,njr->srn", chosen, mix, chosen)
        passive = mx.eye(len(read))[:, :, None] * (1 - chosen.sum(1)).T[:, None]
        return Coefficients(read, everywhere, inside + passive)


class SparseStreams(nn.Module):
    """n streams: expand, one sparse connection per sublayer, reduce."""

    def __init__(self, variant: Sparse, width: int, depth: int):
        super().__init__()
        self._variant = variant
        self.expand = Expand(variant.expand, variant.streams, width)
        share = mixing_share(variant.mix, 2 * depth)
        self.connections = [SparseConnection(variant, width, share) for _ in range(2 * depth)]

    def __call__(self, x: mx.array, sublayers: Sequence[Sublayer], observe: Observer | None = None) -> mx.array:
        batch, time, width = x.shape
        streams = self.expand(x.reshape(-1, width))
        for connection, sublayer in zip(self.connections, sublayers, strict=True):
            routes = connection.routes(streams)
            y = sublayer(connection.read(streams, routes).reshape(batch, time, width))
            streams = connection.write(streams, y.reshape(-1, width), routes)
            if observe is not None:
                observe(routes.summary(), streams)
        reduced = streams.sum(1) if self._variant.reduce == "sum" else streams.mean(1)
        return reduced.reshape(batch, time, width)


class SparseConnection(nn.Module):
    """One connection: x'_I = H_res x_I + p * H_post F(H_pre x) for the active streams I (arXiv:2607.14530).

    `share` is layout.mixing_share: how much of H_res is its chart.
    """

    def __init__(self, variant: Sparse, width: int, share: float):
        super().__init__()
        self._variant, self._share = variant, share
        shapes = connection_shapes(variant, width)
        self.read_bias = mx.zeros(shapes["read_bias"])
        self.read_weight = mx.zeros(shapes["read_weight"])
        if routed(variant):
            self.router = mx.zeros(shapes["router"])
        self.bias = mx.zeros(shapes["bias"])
        self.weight = mx.zeros(shapes["weight"])
        self.scale = mx.zeros(shapes["scale"])

    def routes(self, x: mx.array) -> Routes:
        """Coefficients predicted from the streams x [N, S, C], always in float32."""
        active, gates = self.route(x)
        write, mix = self.active_coefficients(mx.take_along_axis(x, _index(active, x), axis=1))
        return Routes(self.read_weights(x), active, gates.T * write, mix)

    def read(self, x: mx.array, routes: Routes) -> mx.array:
        """Input of the sublayer [N, C] from the streams [N, S, C]."""
        return contract(x, routes.read)

    def write(self, x: mx.array, y: mx.array, routes: Routes) -> mx.array:
        """New streams [N, S, C] from the old ones and the sublayer's output y [N, C]."""
        index = _index(routes.active, x)
        mixed = _mixed(routes.mix, mx.take_along_axis(x, index, axis=1))  # once more: the chosen are not kept
        new = mixed + routes.write.T[:, :, None] * y[:, None].astype(x.dtype)
        return mx.put_along_axis(x, index, new.astype(x.dtype), axis=1)

    def read_weights(self, x: mx.array) -> mx.array:
        """H_pre [S, N] from all streams [N, S, C]."""
        return mx.sigmoid(self.read_bias[:, None] + self.scale[0] * projected(x, self.read_weight))

    def route(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """Active streams [N, K] and what scales their write [N, K]; ties go to the lower index."""
        fixed = self._variant.fixed
        active, gates = mx.broadcast_to(mx.arange(fixed), (len(x), fixed)), mx.ones((len(x), fixed))
        if not routed(self._variant):
            return active, gates
        normed = mx.fast.layer_norm(x.astype(mx.float32).flatten(1), None, None, NORM_EPS)
        scores = mx.sigmoid(normed @ self.router.T)
        best = mx.argsort(-mx.stop_gradient(scores), axis=1)[:, : routed(self._variant)].astype(active.dtype)
        chosen = mx.take_along_axis(scores, best, axis=1)
        return mx.concatenate([active, fixed + best], 1), mx.concatenate([gates, chosen], 1)

    def active_coefficients(self, x: mx.array) -> tuple[mx.array, mx.array | None]:
        """H_post [K, N] and H_res as applied [K, K, N] (None: identity) from the active streams [N, K, C]."""
        active, spec = self._variant.active, self._variant.mix
        dynamic, bias = projected(x, self.weight), self.bias[:, None]
        write = 2 * mx.sigmoid(bias[:active] + self.scale[1] * dynamic[:active])
        if not mix_logits(self._variant):
            return write, None
        scale = self.scale[2] if spec.scale == "learned" else self._variant.alpha
        mix = chart(bias[active:] + scale * dynamic[active:], active, spec, self._share)
        mix = mix.swapaxes(0, 1) if spec.apply == "transposed" else mix
        return write, mix / mx.maximum(mix.sum(1, keepdims=True), 1) if self._variant.clamp else mix


def _mixed(mix: mx.array | None, x: mx.array) -> mx.array:
    """H_res x [N, K, C]."""
    return x if mix is None else mix.transpose(2, 0, 1) @ x


def _index(active: mx.array, x: mx.array) -> mx.array:
    """Active streams [N, K] as an index [N, K, C] into streams."""
    return mx.broadcast_to(active[:, :, None], (*active.shape, x.shape[2]))
