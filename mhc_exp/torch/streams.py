"""Wirings that keep n streams, in PyTorch: what each sublayer reads, where its output goes. Mirrors mlx/streams.py.

Axes: B batch, T time, N = B*T tokens, S streams, C width. Coefficients are float32 and tokens-last: read and write
[S, N], mix [S, S, N] (N = 1 if static). The specification is mhc_exp.topology.reference.streams.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from mhc_exp.config.variants import Gate, Streams
from mhc_exp.topology.layout import NORM_EPS, connections, layout, mixing_share, parameter_shapes, readout_shapes
from mhc_exp.torch.expansion import Expand
from mhc_exp.torch.kernels.eager import Eager, MixFunction
from mhc_exp.torch.recompute import Once, Policy, in_blocks
from mhc_exp.torch.wiring import (
    Branch,
    Coefficients,
    Observer,
    Sublayer,
    at_least_single,
    contract,
    projected,
    with_residuals,
)

Step = tuple["HyperConnection", Branch, Coefficients | None]
"""A connection, what it wraps, and what is known of its coefficients."""


class HyperStreams(nn.Module):
    """n streams: expand, one connection per sublayer (or block), reduce."""

    def __init__(self, variant: Streams, width: int, depth: int):
        super().__init__()
        self.variant = variant
        self.kernels: Eager = Eager()
        """The tier that computes the connections; mhc_exp.torch.kernels.choice puts a faster one here."""
        self.recompute: Policy | None = None
        """Which blocks are computed again for their gradients; torch.recompute.install sets it."""
        self.expand = Expand(variant.expand, variant.streams, width)
        count = connections(variant, depth)
        share = mixing_share(variant.mix, count)
        built = nn.ModuleList(HyperConnection(variant, width, share) for _ in range(count))
        self.connections: Sequence[HyperConnection] = built  # type: ignore[assignment]
        if variant.reduce == "head":
            self.readout = Readout(variant, width)

    def forward(self, x: Tensor, sublayers: Sequence[Sublayer], observe: Observer | None = None) -> Tensor:
        batch, time, width = x.shape
        branches: Sequence[Branch] = sublayers
        if self.variant.site == "block":
            branches = [with_residuals(pair) for pair in zip(sublayers[::2], sublayers[1::2], strict=True)]
        steps = list(zip(self.connections, branches, self.kernels.prepare(self.connections), strict=True))
        if self.recompute is None or observe is not None:  # an observer sees every connection once
            # No name for the first streams: it would keep them as long as the last ones.
            streams, waiting = self.connect((batch, time), observe, steps, self.expand(x.reshape(-1, width)), None)
        else:
            run = partial(self.connect, (batch, time), observe)
            if self.recompute.connections and torch.is_grad_enabled():
                steps = [(connection, Once(branch), known) for connection, branch, known in steps]
            streams, waiting = in_blocks(run, steps, self.recompute.length, self.expand(x.reshape(-1, width)), None)
        return self.reduce(streams, waiting).view(batch, time, width)

    def connect(
        self,
        grid: tuple[int, int],
        observe: Observer | None,
        steps: Sequence[Step],
        streams: Tensor,
        waiting: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """The streams [N, S, C] after these connections of B x T tokens, and the read weights [S, N] that are due next
        where connections predict those of the one after them.
        """
        for connection, branch, prepared in steps:
            if self.variant.read_from == "current":
                coefficients, u, streams = self.kernels.enter(connection, streams, prepared)
            else:
                predicted, streams = self.kernels.predict(connection, streams, prepared)
                coefficients = predicted._replace(read=_first(predicted.read) if waiting is None else waiting)
                u, streams = self.kernels.read(streams, coefficients.read)
                waiting = predicted.read
            y = branch(u.view(*grid, -1))
            streams = self.kernels.write(streams, y.flatten(0, 1), coefficients)
            if observe is not None:
                observe(coefficients, streams)
        return streams, waiting

    def reduce(self, x: Tensor, waiting: Tensor | None) -> Tensor:
        """[N, S, C] -> [N, C]; `waiting` are the read weights [S, N] that the last connection predicted."""
        if self.variant.reduce == "head":
            return self.readout(x)
        if self.variant.reduce == "last_read" and waiting is not None:
            return contract(x, waiting)
        return x.sum(1) if self.variant.reduce == "sum" else x.mean(1)


class HyperConnection(nn.Module):
    """One connection: x' = H_res x + H_post^T F(H_pre x) (arXiv:2409.19606 eq. 1, arXiv:2512.24880 eq. 3).

    Parameters are described in mhc_exp.topology.layout.parameter_shapes and start at zero: load the values of
    mhc_exp.topology.init.connection_values. `share` is layout.mixing_share: how much of H_res is its chart.
    """

    def __init__(self, variant: Streams, width: int, share: float = 1.0):
        super().__init__()
        self.variant, self.layout, self.share = variant, layout(variant), share
        shapes = parameter_shapes(variant, width)
        self.bias = nn.Parameter(torch.zeros(shapes["bias"]))
        if variant.coefficients == "dynamic":
            self.weight = nn.Parameter(torch.zeros(shapes["weight"]))
            self.scale = nn.Parameter(torch.zeros(shapes["scale"]))
            if variant.norm == "layer":
                self.norm = nn.LayerNorm(width, eps=NORM_EPS)
            else:
                self.sizes: Tensor
                self.register_buffer("sizes", torch.tensor(self.layout.parts), persistent=False)

    def activated(self, raw: Tensor, mix: MixFunction) -> Coefficients:
        """Coefficients from raw ones [total, N]; `mix` is a tier's way from logits to H_res as applied."""
        spec, streams = self.variant, self.layout.streams
        read, write, logits = (raw[part] for part in self.layout.slices)
        matrix = None if spec.mix.chart == "identity" else mix(logits, streams, spec.mix, self.share)
        return Coefficients(_gate(read, spec.read, "mean"), _gate(write, spec.write, "sum"), matrix)

    def raw(self, x: Tensor) -> Tensor:
        """Coefficients [total, N] before activation and chart, predicted from the streams x [N, S, C] in float32."""
        with torch.autocast(x.device.type, enabled=False):
            return self._predicted(at_least_single(x))

    def _predicted(self, x: Tensor) -> Tensor:
        bias = self.bias.unsqueeze(1)
        squash = torch.tanh if self.variant.squash == "tanh" else (lambda value: value)
        if self.variant.norm == "flat_rms":
            scale = functional.pad(self.scale, (0, len(self.sizes) - len(self.scale)), value=self.variant.alpha)
            scale = scale.repeat_interleave(self.sizes, output_size=self.layout.total).unsqueeze(1)
            return torch.addcmul(bias, scale, squash(projected(x, self.weight)))
        dynamic = squash(functional.linear(self.norm(x), self.weight)).permute(1, 2, 0)  # [S, 2 + mix/S, N]
        read, write, mix = dynamic[:, 0], dynamic[:, 1], dynamic[:, 2:].flatten(0, 1)
        return bias + torch.cat([self.scale[0] * read, self.scale[1] * write, self.scale[0] * mix])


class Readout(nn.Module):
    """Learned sigmoid-weighted sum of the streams (DeepSeek-V4's hc_head, arXiv:2606.19348)."""

    def __init__(self, variant: Streams, width: int):
        super().__init__()
        shapes = readout_shapes(variant, width)
        self.eps = variant.read.eps
        self.weight = nn.Parameter(torch.zeros(shapes["weight"]))
        self.bias = nn.Parameter(torch.zeros(shapes["bias"]))
        self.scale = nn.Parameter(torch.zeros(shapes["scale"]))

    def forward(self, x: Tensor) -> Tensor:
        """[N, S, C] -> [N, C]."""
        with torch.autocast(x.device.type, enabled=False):
            logits = torch.addcmul(self.bias.unsqueeze(1), self.scale, projected(x, self.weight))
            return contract(x, torch.sigmoid(logits) + self.eps)


def _first(read: Tensor) -> Tensor:
    """Read weights like `read` [S, N] that pick stream 0."""
    return torch.cat([torch.ones_like(read[:1]), torch.zeros_like(read[1:])])


def _gate(raw: Tensor, spec: Gate, over_rows: str) -> Tensor:
    """Read or write weights [S, N] from raw coefficients; softmax_rows averages (read) or sums (write) its rows."""
    if spec.activation == "softmax_rows":
        streams = round(raw.shape[0] ** 0.5)
        rows = raw.view(streams, streams, -1).softmax(1)
        weights = rows.mean(0) if over_rows == "mean" else rows.sum(0)
    elif spec.activation == "linear":
        weights = raw
    else:
        weights = torch.sigmoid(raw)
        weights = 2 * weights if spec.activation == "two_sigmoid" else weights
    return weights + spec.eps if spec.eps else weights
