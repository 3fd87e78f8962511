"""Wirings that read n streams and update few of them, in PyTorch. Mirrors mlx/sparse.py.

Axes: B batch, T time, N = B*T tokens, S streams, K active streams, C width. Coefficients are float32: read [S, N],
active streams and their gates [N, K], write [K, N], mix [K, K, N]. The specification is topology.reference.sparse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mhc_exp.config.variants import Sparse
from mhc_exp.topology.layout import NORM_EPS, mixing_share
from mhc_exp.topology.sparse import connection_shapes, mix_logits, routed
from mhc_exp.torch.charts import chart
from mhc_exp.torch.expansion import Expand
from mhc_exp.torch.wiring import Coefficients, Observer, Sublayer, at_least_single, contract, projected


class Routes(NamedTuple):
    """Read [S, N], active streams [N, K], write [K, N] times their gates, and mix as applied [K, K, N] (None: the
    identity).
    """

    read: Tensor
    active: Tensor
    write: Tensor
    mix: Tensor | None

    def summary(self) -> Coefficients:
        """As streams report theirs: over all streams, write [S, N] zero and mix [S, S, N] the identity where nothing is
        active.
        """
        read, active, write, mix = self
        chosen = functional.one_hot(active, len(read)).to(write.dtype)  # [N, K, S]
        everywhere = torch.einsum("nks,kn->sn", chosen, write)
        if mix is None:
            return Coefficients(read, everywhere, None)
        inside = torch.einsum("nis,ijn,njr->srn", chosen, mix, chosen)
        passive = torch.diag_embed(1 - chosen.sum(1)).permute(1, 2, 0)
        return Coefficients(read, everywhere, inside + passive)


class SparseStreams(nn.Module):
    """n streams: expand, one sparse connection per sublayer, reduce."""

    def __init__(self, variant: Sparse, width: int, depth: int):
        super().__init__()
        self.variant = variant
        self.expand = Expand(variant.expand, variant.streams, width)
        share = mixing_share(variant.mix, 2 * depth)
        built = nn.ModuleList(SparseConnection(variant, width, share) for _ in range(2 * depth))
        self.connections: Sequence[SparseConnection] = built  # type: ignore[assignment]

    def forward(self, x: Tensor, sublayers: Sequence[Sublayer], observe: Observer | None = None) -> Tensor:
        batch, time, width = x.shape
        streams = self.expand(x.reshape(-1, width))
        for connection, sublayer in zip(self.connections, sublayers, strict=True):
            routes = connection.routes(streams)
            y = sublayer(connection.read(streams, routes).view(batch, time, width))
            streams = connection.write(streams, y.reshape(-1, width), routes)
            if observe is not None:
                observe(routes.summary(), streams)
        reduced = streams.sum(1) if self.variant.reduce == "sum" else streams.mean(1)
        return reduced.view(batch, time, width)


class SparseConnection(nn.Module):
    """One connection: x'_I = H_res x_I + p * H_post F(H_pre x) for the active streams I (arXiv:2607.14530).

    `share` is layout.mixing_share: how much of H_res is its chart.
    """

    def __init__(self, variant: Sparse, width: int, share: float):
        super().__init__()
        self.variant, self.share = variant, share
        shapes = connection_shapes(variant, width)
        self.read_bias = nn.Parameter(torch.zeros(shapes["read_bias"]))
        self.read_weight = nn.Parameter(torch.zeros(shapes["read_weight"]))
        if routed(variant):
            self.router = nn.Parameter(torch.zeros(shapes["router"]))
        self.bias = nn.Parameter(torch.zeros(shapes["bias"]))
        self.weight = nn.Parameter(torch.zeros(shapes["weight"]))
        self.scale = nn.Parameter(torch.zeros(shapes["scale"]))

    def routes(self, x: Tensor) -> Routes:
        """Coefficients predicted from the streams x [N, S, C], always in float32."""
        active, gates = self.route(x)
        write, mix = self.active_coefficients(x.gather(1, _index(active, x)))
        return Routes(self.read_weights(x), active, gates.t() * write, mix)

    def read(self, x: Tensor, routes: Routes) -> Tensor:
        """Input of the sublayer [N, C] from the streams [N, S, C]."""
        return contract(x, routes.read)

    def write(self, x: Tensor, y: Tensor, routes: Routes) -> Tensor:
        """New streams [N, S, C] from the old ones and the sublayer's output y [N, C]."""
        index = _index(routes.active, x)
        mixed = _mixed(routes.mix, x.gather(1, index))  # once more: chosen streams are not kept beside all streams
        new = mixed + routes.write.t().unsqueeze(2) * y.unsqueeze(1).to(x.dtype)
        return x.scatter(1, index, new.to(x.dtype))

    def read_weights(self, x: Tensor) -> Tensor:
        """H_pre [S, N] from all streams [N, S, C]."""
        with torch.autocast(x.device.type, enabled=False):
            dynamic = projected(x, self.read_weight)
            return torch.sigmoid(torch.addcmul(self.read_bias.unsqueeze(1), self.scale[0], dynamic))

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Active streams [N, K] and what scales their write [N, K]; ties go to the lower index."""
        fixed = self.variant.fixed
        active = torch.arange(fixed, device=x.device).expand(len(x), -1)
        gates = torch.ones(len(x), fixed, device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
        if not routed(self.variant):
            return active, gates
        with torch.autocast(x.device.type, enabled=False):
            flat = at_least_single(x).flatten(1)
            normed = functional.layer_norm(flat, flat.shape[1:], eps=NORM_EPS)
            scores = torch.sigmoid(functional.linear(normed, self.router))
        best = scores.detach().argsort(dim=1, descending=True, stable=True)[:, : routed(self.variant)]
        return torch.cat([active, fixed + best], 1), torch.cat([gates, scores.gather(1, best)], 1)

    def active_coefficients(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """H_post [K, N] and H_res as applied [K, K, N] (None: identity) from the active streams [N, K, C]."""
        active, spec = self.variant.active, self.variant.mix
        with torch.autocast(x.device.type, enabled=False):
            dynamic, bias = projected(x, self.weight), self.bias.unsqueeze(1)
            write = 2 * torch.sigmoid(torch.addcmul(bias[:active], self.scale[1], dynamic[:active]))
            if not mix_logits(self.variant):
                return write, None
            scale = self.scale[2] if spec.scale == "learned" else self.variant.alpha
            mix = chart(bias[active:] + scale * dynamic[active:], active, spec, self.share)
            mix = mix.transpose(0, 1) if spec.apply == "transposed" else mix
            return write, mix / mix.sum(1, keepdim=True).clamp(min=1) if self.variant.clamp else mix


def _mixed(mix: Tensor | None, x: Tensor) -> Tensor:
    """H_res x [N, K, C], in the dtype of x."""
    if mix is None:
        return x
    with torch.autocast(x.device.type, enabled=False):
        return torch.bmm(mix.permute(2, 0, 1).contiguous().to(x.dtype), x)


def _index(active: Tensor, x: Tensor) -> Tensor:
    """Active streams [N, K] as an index [N, K, C] into streams."""
    return active.unsqueeze(2).expand(-1, -1, x.shape[2])
