"""Wirings that keep n streams, in MLX: what each sublayer reads, where its output goes. Mirrors torch/streams.py.

Axes: B batch, T time, N = B*T tokens, S streams, C width. Coefficients are float32 and tokens-last: read and write
[S, N], mix [S, S, N] (N = 1 if static). The specification is mhc_exp.topology.reference.streams.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import mlx.core as mx
from mlx import nn

from mhc_exp.config.variants import Gate, Streams
from mhc_exp.mlx.charts import chart
from mhc_exp.mlx.expansion import Expand
from mhc_exp.mlx.recompute import Step, in_blocks
from mhc_exp.mlx.wiring import Branch, Coefficients, Observer, Sublayer, contract, projected, with_residuals
from mhc_exp.topology.layout import NORM_EPS, connections, layout, mixing_share, parameter_shapes, readout_shapes


class HyperStreams(nn.Module):
    """n streams: expand, one connection per sublayer (or block), reduce."""

    def __init__(self, variant: Streams, width: int, depth: int):
        super().__init__()
        self._variant = variant
        self._recompute: int | None = None
        """Connections per block that is computed again for its gradients; mlx.recompute.install puts a number here."""
        self.expand = Expand(variant.expand, variant.streams, width)
        count = connections(variant, depth)
        share = mixing_share(variant.mix, count)
        self.connections = [HyperConnection(variant, width, share) for _ in range(count)]
        if variant.reduce == "head":
            self.readout = Readout(variant, width)

    def __call__(self, x: mx.array, sublayers: Sequence[Sublayer], observe: Observer | None = None) -> mx.array:
        batch, time, width = x.shape
        branches: Sequence[Branch] = sublayers
        if self._variant.site == "block":
            branches = [with_residuals(pair) for pair in zip(sublayers[::2], sublayers[1::2], strict=True)]
        known, per = prepared(self.connections), len(sublayers) // len(self.connections)
        wrapped = [tuple(sublayers[per * k : per * (k + 1)]) for k in range(len(branches))]
        parts = zip(self.connections, wrapped, branches, known, strict=True)
        steps = [Step((one, *own), branch, static) for one, own, branch, static in parts]
        if self._recompute is None or observe is not None:  # an observer sees every connection once
            # No name for the first streams: it would keep them as long as the last ones.
            streams, waiting = self.connect((batch, time), observe, steps, self.expand(x.reshape(-1, width)), None)
        else:
            run = partial(self.connect, (batch, time), observe)
            streams, waiting = in_blocks(run, steps, self._recompute, self.expand(x.reshape(-1, width)), None)
        return self.reduce(streams, waiting).reshape(batch, time, width)

    def connect(
        self,
        grid: tuple[int, int],
        observe: Observer | None,
        steps: Sequence[Step],
        streams: mx.array,
        waiting: mx.array | None,
    ) -> tuple[mx.array, mx.array | None]:
        """The streams [N, S, C] after these connections of B x T tokens, and the read weights [S, N] that are due next
        where connections predict those of the one after them.
        """
        for step in steps:
            connection: HyperConnection = step.modules[0]
            predicted = coefficients = connection.coefficients(streams, step.known)
            if self._variant.read_from == "previous":
                coefficients = predicted._replace(read=_first(predicted.read) if waiting is None else waiting)
                waiting = predicted.read
            y = step.call(contract(streams, coefficients.read).reshape(*grid, -1))
            streams = connection.write(streams, y.flatten(0, 1), coefficients)
            if observe is not None:
                observe(coefficients, streams)
        return streams, waiting

    def reduce(self, x: mx.array, waiting: mx.array | None) -> mx.array:
        """[N, S, C] -> [N, C]; `waiting` are the read weights [S, N] that the last connection predicted."""
        if self._variant.reduce == "head":
            return self.readout(x)
        if self._variant.reduce == "last_read" and waiting is not None:
            return contract(x, waiting)
        return x.sum(1) if self._variant.reduce == "sum" else x.mean(1)


class HyperConnection(nn.Module):
    """One connection: x' = H_res x + H_post^T F(H_pre x) (arXiv:2409.19606 eq. 1, arXiv:2512.24880 eq. 3).

    Parameters are described in mhc_exp.topology.layout.parameter_shapes and start at zero: load the values of
    mhc_exp.topology.init.connection_values. `share` is layout.mixing_share: how much of H_res is its chart.
    """

    def __init__(self, variant: Streams, width: int, share: float = 1.0):
        super().__init__()
        self._variant, self._layout, self._share = variant, layout(variant), share
        shapes = parameter_shapes(variant, width)
        self.bias = mx.zeros(shapes["bias"])
        if variant.coefficients == "dynamic":
            self.weight = mx.zeros(shapes["weight"])
            self.scale = mx.zeros(shapes["scale"])
            if variant.norm == "layer":
                self.norm = nn.LayerNorm(width, eps=NORM_EPS)

    def coefficients(self, x: mx.array, known: Coefficients | None) -> Coefficients:
        """Coefficients for the streams x [N, S, C]: what is known of them, or predicted, always in float32."""
        return known or self.activated(self._raw(x.astype(mx.float32)))

    def activated(self, raw: mx.array) -> Coefficients:
        """Coefficients from raw ones [total, N]."""
        read, write, mix = (raw[part] for part in self._layout.slices)
        matrix = None
        if self._variant.mix.chart != "identity":
            matrix = chart(mix, self._layout.streams, self._variant.mix, self._share)
            if self._variant.mix.apply == "transposed":
                matrix = matrix.swapaxes(0, 1)
        return Coefficients(_gate(read, self._variant.read, "mean"), _gate(write, self._variant.write, "sum"), matrix)

    def _raw(self, x: mx.array) -> mx.array:
        """Coefficients [total, N] before activation and chart."""
        bias = self.bias[:, None]
        squash = mx.tanh if self._variant.squash == "tanh" else (lambda value: value)
        if self._variant.norm == "flat_rms":
            parts = self._layout.parts
            scale = mx.pad(self.scale, (0, len(parts) - len(self.scale)), constant_values=self._variant.alpha)
            scale = mx.concatenate([mx.broadcast_to(scale[i], (size, 1)) for i, size in enumerate(parts)])
            return bias + scale * squash(projected(x, self.weight))
        dynamic = squash(self.norm(x) @ self.weight.T).transpose(1, 2, 0)  # [S, 2 + mix/S, N]
        read, write, mix = dynamic[:, 0], dynamic[:, 1], dynamic[:, 2:].flatten(0, 1)
        return bias + mx.concatenate([self.scale[0] * read, self.scale[1] * write, self.scale[0] * mix])

    def write(self, x: mx.array, y: mx.array, coefficients: Coefficients) -> mx.array:
        """New streams [N, S, C] from the old ones and the sublayer's output y [N, C]."""
        added = coefficients.write.T[:, :, None] * y[:, None]
        if coefficients.mix is None:
            return x + added
        return coefficients.mix.transpose(2, 0, 1) @ x + added


def prepared(connections: Sequence[HyperConnection]) -> Sequence[Coefficients | None]:
    """What is known of all connections before the first one: static coefficients, all in one batch; else None."""
    first = connections[0]
    if first._variant.coefficients == "dynamic":
        return [None] * len(connections)
    parts = first.activated(mx.stack([one.bias for one in connections], 1))
    read, write = (mx.split(part, len(connections), 1) for part in parts[:2])
    mixes = [None] * len(connections) if parts.mix is None else mx.split(parts.mix, len(connections), 2)
    return [Coefficients(*own) for own in zip(read, write, mixes, strict=True)]


class Readout(nn.Module):
    """Learned sigmoid-weighted sum of the streams (DeepSeek-V4's hc_head, arXiv:2606.19348)."""

    def __init__(self, variant: Streams, width: int):
        super().__init__()
        shapes = readout_shapes(variant, width)
        self._eps = variant.read.eps
        self.weight = mx.zeros(shapes["weight"])
        self.bias = mx.zeros(shapes["bias"])
        self.scale = mx.zeros(shapes["scale"])

    def __call__(self, x: mx.array) -> mx.array:
        """[N, S, C] -> [N, C]."""
        logits = self.bias[:, None] + self.scale * projected(x, self.weight)
        return contract(x, mx.sigmoid(logits) + self._eps)


def _first(read: mx.array) -> mx.array:
    """Read weights like `read` [S, N] that pick stream 0."""
    return mx.concatenate([mx.ones_like(read[:1]), mx.zeros_like(read[1:])])


def _gate(raw: mx.array, spec: Gate, over_rows: str) -> mx.array:
    """Read or write weights [S, N] from raw coefficients; softmax_rows averages (read) or sums (write) its rows."""
    if spec.activation == "softmax_rows":
        streams = round(raw.shape[0] ** 0.5)
        rows = mx.softmax(raw.reshape(streams, streams, -1), axis=1)
        weights = rows.mean(0) if over_rows == "mean" else rows.sum(0)
    elif spec.activation == "linear":
        weights = raw
    else:
        weights = mx.sigmoid(raw)
        weights = 2 * weights if spec.activation == "two_sigmoid" else weights
    return weights + spec.eps if spec.eps else weights
