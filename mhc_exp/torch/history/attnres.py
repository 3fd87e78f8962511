"""Attention Residuals: softmax reads over the outputs of earlier sublayers, in PyTorch. Mirrors mlx/history/attnres.py,
but for `_SoftmaxRead`, which writes the gradient of a read out by hand.

The specification is mhc_exp.topology.reference.history.attnres.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mhc_exp.config.history_variants import AttnRes
from mhc_exp.topology.history.attnres import block_size, shapes
from mhc_exp.topology.layout import NORM_EPS
from mhc_exp.torch.history.blocks import at_least_single
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
            output, weights = _softmax_read(queries, self.channels, sources)
            if observe is not None:
                observe(weights.permute(2, 0, 1))
            return output


def _softmax_read(queries: Tensor, channels: Tensor, sources: Sequence[Source]) -> tuple[Tensor, Tensor]:
    """The read [B, T, C] and its weights [sources, B*T, H], through which no gradient flows."""
    values, inverse_rms = zip(*sources, strict=True)
    output, weights = _SoftmaxRead.apply(queries, channels, *values, *inverse_rms)  # type: ignore[misc]
    return output, weights


class _SoftmaxRead(torch.autograd.Function):
    """Depth L has L^2 / 2 pairs of read and source: this computes each with a few operations and no graph of its own.

    Axes: K sources, N tokens, H heads, C width. The sources are read where they are, no stack of them is made or kept.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, channels: Tensor, *sources: Tensor) -> tuple[Tensor, Tensor]:
        values, inverse_rms = _flat(sources)
        scores = queries.new_empty(len(values), len(values[0]), len(queries))  # [K, N, H]
        for value, score in zip(values, scores.unbind(0), strict=True):
            torch.mm(value, queries.t(), out=score)
        scores *= inverse_rms
        weights = scores.softmax(0)
        by_head = (len(values[0]), len(queries), -1)
        terms = [(weight.unsqueeze(-1), value.view(by_head)) for weight, value in zip(weights, values, strict=True)]
        output = terms[0][0] * terms[0][1]
        for weight, value in terms[1:]:
            output.addcmul_(weight, value)
        ctx.save_for_backward(queries, channels, scores, weights, *sources)
        ctx.mark_non_differentiable(weights)
        return output.view_as(sources[0]), weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        queries, channels, scores, weights, *sources = ctx.saved_tensors
        values, inverse_rms = _flat(sources)
        flat = gradient.reshape(values[0].shape)
        dweights = torch.empty_like(weights)
        for value, dweight in zip(values, dweights.unbind(0), strict=True):
            torch.mm(value * flat, channels.t(), out=dweight)
        dscores = weights * (dweights - (weights * dweights).sum(0))
        dinverse = (dscores * scores).sum(2, keepdim=True) / inverse_rms
        dprojected = dscores * inverse_rms
        dqueries = torch.zeros_like(queries)
        for value, one in zip(values, dprojected.unbind(0), strict=True):
            dqueries.addmm_(one.t(), value)
        dvalues = weights.unsqueeze(3) * flat.view(*weights.shape[1:], -1)  # [K, N, H, C / H]
        dvalues.view(-1, flat.shape[1]).addmm_(dprojected.flatten(0, 1), queries)
        by_source = [one.view_as(gradient) for one in dvalues.unbind(0)]
        return (
            dqueries,
            None,
            *by_source,
            *(one.view_as(x) for one, x in zip(dinverse, sources[len(values) :], strict=True)),
        )


def _flat(sources: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Values as K tensors [N, C], inverse RMS as [K, N, 1]."""
    values, inverse_rms = sources[: len(sources) // 2], sources[len(sources) // 2 :]
    return [value.reshape(-1, value.shape[-1]) for value in values], torch.stack([*inverse_rms]).flatten(1, 2)
