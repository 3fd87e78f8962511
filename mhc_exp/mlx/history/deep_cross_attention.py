"""DeepCrossAttention: query, key and value each read all earlier outputs, in MLX.

Mirrors torch/history/deep_cross_attention.py; the specification is
mhc_exp.topology.reference.history.deep_cross_attention. W ways (query, key, value).
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
from mlx import nn

from mhc_exp.config.history_variants import DeepCrossAttention
from mhc_exp.mlx.history.blocks import Attention, attend, blocks, unbind, weighted_sum
from mhc_exp.mlx.wiring import SourceObserver, Sublayer
from mhc_exp.topology.history.deep_cross_attention import shapes
from mhc_exp.topology.history.parameters import Shapes


class DeepCrossAttentions(nn.Module):
    """q, k, v = GRN(G), f = a + MLP(q + a) with a = attention(q, k, v); G: embedding and all f (arXiv:2502.06785)."""

    def __init__(self, variant: DeepCrossAttention, width: int, depth: int):
        super().__init__()
        self._last = variant.last
        self.connections = [Read(one) for one in shapes(variant, width, depth)]

    def __call__(self, x: mx.array, sublayers: Sequence[Sublayer], observe: SourceObserver | None = None) -> mx.array:
        outputs = [x.astype(mx.float32)]
        for read, (attention, mlp) in zip(self.connections, blocks(sublayers), strict=False):
            query, attended = _attended(attention, *read(self.visible(outputs), observe))
            outputs.append((attended + mlp(query + attended)).astype(mx.float32))
        return self.connections[-1](self.visible(outputs), observe)[0]

    def visible(self, outputs: list[mx.array]) -> list[mx.array]:
        """All outputs, or the embedding, the sum of those between, and the last k."""
        if self._last is None or len(outputs) <= self._last + 2:
            return outputs
        between = outputs[1 : -self._last]
        return [outputs[0], mx.stack(between).sum(0), *outputs[-self._last :]]


def _attended(attention: Attention, query: mx.array, key: mx.array, value: mx.array) -> tuple[mx.array, mx.array]:
    """q and a; the other two reads end here."""
    return query, attend(attention, query, key, value)


class Read(nn.Module):
    """GRN-v3: (G * (b + ReLU(w^T G))) 1 per way; without w, GRN-v2."""

    def __init__(self, shapes: Shapes):
        super().__init__()
        self.bias = mx.zeros(shapes["bias"])
        if "weight" in shapes:
            self.weight = mx.zeros(shapes["weight"])

    def __call__(self, sources: list[mx.array], observe: SourceObserver | None = None) -> list[mx.array]:
        weights = self.weights(sources)
        if observe is not None:
            observe(mx.stack([_sizes(way) for way in weights]))
        return [weighted_sum(way, sources) for way in weights]

    def weights(self, sources: list[mx.array]) -> list[list[mx.array]]:
        """Per way and source [B, T, C], or [C] if static."""
        if "weight" not in self:
            return [unbind(bias) for bias in unbind(self.bias)]
        scores = [_relu(source @ self.weight.T) for source in sources]
        return [
            [b + z[..., way, None] for b, z in zip(unbind(bias), scores, strict=True)]
            for way, bias in enumerate(unbind(self.bias))
        ]


def _sizes(weights: list[mx.array]) -> mx.array:
    """Mean absolute weight over the channels [sources, N] of one way."""
    return mx.stack([mx.abs(weight).mean(-1).flatten() for weight in weights])


def _relu(z: mx.array) -> mx.array:
    """ReLU with slope 1/2 at zero, where the published w = 0 puts every score: with slope 0 w would never move."""
    return (z + mx.abs(z)) / 2
