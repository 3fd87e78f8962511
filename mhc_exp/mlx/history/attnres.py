"""Attention Residuals: softmax reads over the outputs of earlier sublayers, in MLX. Mirrors torch/history/attnres.py.

The specification is mhc_exp.topology.reference.history.attnres.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx
from mlx import nn

from mhc_exp.config.history_variants import AttnRes
from mhc_exp.mlx.history.blocks import unbind, weighted_sum
from mhc_exp.mlx.wiring import SourceObserver, Sublayer
from mhc_exp.topology.history.attnres import block_size, shapes
from mhc_exp.topology.layout import NORM_EPS


class Source(NamedTuple):
    """An output [B, T, C] with the inverse of its RMS [B, T, 1], which is the same for every read of it."""

    value: mx.array
    inverse_rms: mx.array


class AttentionResiduals(nn.Module):
    """h_l = sum_i softmax_i(w_l . RMSNorm(v_i)) v_i (arXiv:2603.15031), by heads of channels (arXiv:2607.27230)."""

    def __init__(self, variant: AttnRes, width: int, depth: int):
        super().__init__()
        self._size = block_size(variant, depth)
        self.connections = [Read("query" in one, variant.heads, width) for one in shapes(variant, width, depth)]

    def __call__(self, x: mx.array, sublayers: Sequence[Sublayer], observe: SourceObserver | None = None) -> mx.array:
        finished, partial = [_source(x.astype(mx.float32))], None
        for index, (read, sublayer) in enumerate(zip(self.connections, sublayers, strict=False)):
            current = [] if partial is None else [_source(partial)]
            output = sublayer(read([*finished, *current], observe)).astype(mx.float32)
            partial = output if partial is None else partial + output
            if (index + 1) % self._size == 0:
                finished, partial = [*finished, _source(partial)], None
        current = [] if partial is None else [_source(partial)]
        return self.connections[-1]([*finished, *current], observe)


def _source(x: mx.array) -> Source:
    return Source(x, mx.rsqrt(mx.square(x).mean(-1, keepdims=True) + NORM_EPS))


class Read(nn.Module):
    """One softmax over sources; a single source is read as it is."""

    def __init__(self, learned: bool, heads: int, width: int):
        super().__init__()
        self._heads = heads
        self._channels = mx.repeat(mx.eye(heads), width // heads, axis=1)
        if learned:
            self.query = mx.zeros(width)
            self.key_norm = mx.zeros(width)

    def __call__(self, sources: list[Source], observe: SourceObserver | None = None) -> mx.array:
        if "query" not in self:
            if observe is not None:
                observe(mx.ones((1, 1, 1)))
            return sources[0].value
        queries = self._channels * (self.query * self.key_norm)  # [H, C], zero outside a head's channels
        scores = [(value @ queries.T) * inverse_rms for value, inverse_rms in sources]
        weights = mx.softmax(mx.stack(scores), axis=0)[..., None]  # [sources, B, T, H, 1]
        if observe is not None:
            observe(weights.squeeze(-1).flatten(1, 2).transpose(2, 0, 1))
        by_head = [value.reshape(*value.shape[:-1], self._heads, -1) for value, _ in sources]
        return weighted_sum(unbind(weights), by_head).flatten(-2)
