"""Attention Residuals: softmax reads over the outputs of earlier sublayers, in PyTorch. Mirrors mlx/history/attnres.py.

The specification is mhc_exp.topology.reference.history.attnres.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mhc_exp.config.history_variants import AttnRes
from mhc_exp.topology.history.attnres import block_size, shapes
from mhc_exp.topology.layout import NORM_EPS
from mhc_exp.torch.history.blocks import at_least_single, weighted_sum
from mhc_exp.torch.wiring import SourceObserver, Sublayer


class Source(NamedTuple):
    """An output [B, T, C] with the inverse of its RMS [B, T, 1], which is the same for every read of it."""

    value: Tensor
    inverse_rms: Tensor


class AttentionResiduals(nn.Module):
    """h_l = sum_i softmax_i(w_l . RMSNorm(v_i)) v_i (arXiv:2603.15031), by heads of channels (arXiv:2607.27230)."""

    def __init__(self, variant: AttnRes, width: int, depth: int):
        super().__init__()
        self.size = block_size(variant, depth)
        built = nn.ModuleList(Read("query" in one, variant.heads, width) for one in shapes(variant, width, depth))
        self.connections: Sequence[Read] = built  # type: ignore[assignment]

    def forward(self, x: Tensor, sublayers: Sequence[Sublayer], observe: SourceObserver | None = None) -> Tensor:
        finished, partial = [_source(at_least_single(x))], None
        for index, (read, sublayer) in enumerate(zip(self.connections, sublayers, strict=False)):
            current = [] if partial is None else [_source(partial)]
            output = at_least_single(sublayer(read([*finished, *current], observe)))
            partial = output if partial is None else partial + output
            if (index + 1) % self.size == 0:
                finished, partial = [*finished, _source(partial)], None
        current = [] if partial is None else [_source(partial)]
        return self.connections[-1]([*finished, *current], observe)


def _source(x: Tensor) -> Source:
    return Source(x, torch.rsqrt(x.square().mean(-1, keepdim=True) + NORM_EPS))


class Read(nn.Module):
    """One softmax over sources; a single source is read as it is."""

    def __init__(self, learned: bool, heads: int, width: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.zeros(width)) if learned else None
        self.key_norm = nn.Parameter(torch.zeros(width)) if learned else None
        self.channels: Tensor
        self.register_buffer("channels", torch.eye(heads).repeat_interleave(width // heads, 1), persistent=False)

    def forward(self, sources: list[Source], observe: SourceObserver | None = None) -> Tensor:
        if self.query is None or self.key_norm is None:
            if observe is not None:
                observe(torch.ones(1, 1, 1))
            return sources[0].value
        with torch.autocast(self.query.device.type, enabled=False):
            queries = self.channels * (self.query * self.key_norm)  # [H, C], zero outside a head's channels
            scores = [functional.linear(value, queries) * inverse_rms for value, inverse_rms in sources]
            weights = torch.stack(scores).softmax(0).unsqueeze(-1)  # [sources, B, T, H, 1]
            if observe is not None:
                observe(weights.squeeze(-1).flatten(1, 2).permute(2, 0, 1))
            by_head = [value.unflatten(-1, (self.heads, -1)) for value, _ in sources]
            return weighted_sum(weights.unbind(0), by_head).flatten(-2)
