"""DeepCrossAttention: query, key and value each read all earlier outputs, in PyTorch.

Mirrors mlx/history/deep_cross_attention.py; the specification is
mhc_exp.topology.reference.history.deep_cross_attention. W ways (query, key, value).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mhc_exp.config.history_variants import DeepCrossAttention
from mhc_exp.topology.history.deep_cross_attention import shapes
from mhc_exp.topology.history.parameters import Shapes
from mhc_exp.torch.history.blocks import Attention, at_least_single, attend, blocks, weighted_sum
from mhc_exp.torch.wiring import SourceObserver, Sublayer


class DeepCrossAttentions(nn.Module):
    """q, k, v = GRN(G), f = a + MLP(q + a) with a = attention(q, k, v); G: embedding and all f (arXiv:2502.06785)."""

    def __init__(self, variant: DeepCrossAttention, width: int, depth: int):
        super().__init__()
        self.last = variant.last
        built = nn.ModuleList(Read(one) for one in shapes(variant, width, depth))
        self.connections: Sequence[Read] = built  # type: ignore[assignment]

    def forward(self, x: Tensor, sublayers: Sequence[Sublayer], observe: SourceObserver | None = None) -> Tensor:
        outputs = [at_least_single(x)]
        for read, (attention, mlp) in zip(self.connections, blocks(sublayers), strict=False):
            query, attended = _attended(attention, *read(self.visible(outputs), observe))
            outputs.append(at_least_single(attended + mlp(query + attended)))
        return self.connections[-1](self.visible(outputs), observe)[0]

    def visible(self, outputs: list[Tensor]) -> list[Tensor]:
        """All outputs, or the embedding, the sum of those between, and the last k."""
        if self.last is None or len(outputs) <= self.last + 2:
            return outputs
        between = outputs[1 : -self.last]
        return [outputs[0], torch.stack(between).sum(0), *outputs[-self.last :]]


def _attended(attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """q and a; the other two reads end here."""
    return query, attend(attention, query, key, value)


class Read(nn.Module):
    """GRN-v3: (G * (b + ReLU(w^T G))) 1 per way; without w, GRN-v2."""

    def __init__(self, shapes: Shapes):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(shapes["bias"]))
        self.weight = nn.Parameter(torch.zeros(shapes["weight"])) if "weight" in shapes else None

    def forward(self, sources: list[Tensor], observe: SourceObserver | None = None) -> list[Tensor]:
        with torch.autocast(sources[0].device.type, enabled=False):
            weights = self.weights(sources)
            if observe is not None:
                observe(torch.stack([_sizes(way) for way in weights]))
            return [weighted_sum(way, sources) for way in weights]

    def weights(self, sources: list[Tensor]) -> list[list[Tensor]]:
        """Per way and source [B, T, C], or [C] if static."""
        if self.weight is None:
            return [list(bias.unbind(0)) for bias in self.bias.unbind(0)]
        scores = [_relu(functional.linear(source, self.weight)).unbind(-1) for source in sources]
        return [
            [b + by_way[way].unsqueeze(-1) for b, by_way in zip(bias, scores, strict=True)]
            for way, bias in enumerate(self.bias.unbind(0))
        ]


def _sizes(weights: list[Tensor]) -> Tensor:
    """Mean absolute weight over the channels [sources, N] of one way."""
    return torch.stack([weight.abs().mean(-1).flatten() for weight in weights])


def _relu(z: Tensor) -> Tensor:
    """ReLU with slope 1/2 at zero, where the published w = 0 puts every score: with slope 0 w would never move."""
    return (z + z.abs()) / 2
