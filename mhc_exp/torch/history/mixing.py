"""Learned mixing of the last H states, in PyTorch. Mirrors mlx/history/mixing.py.

The specification is mhc_exp.topology.reference.history.mixing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mhc_exp.config.history_variants import History
from mhc_exp.topology.history.mixing import shapes, sinkhorn
from mhc_exp.torch.charts import CHARTS
from mhc_exp.torch.history.blocks import at_least_single, weighted_sum
from mhc_exp.torch.wiring import SourceObserver, Sublayer


class HistoryMixing(nn.Module):
    """x_(l+1) = sum_k a_k x_(l-k) + F(x_l); the history is local to a call and never detached."""

    def __init__(self, variant: History, width: int, depth: int):
        super().__init__()
        self.window = variant.window
        built = nn.ModuleList(Mixing(variant, one.get("logits")) for one in shapes(variant, width, depth))
        self.connections: Sequence[Mixing] = built  # type: ignore[assignment]

    def forward(self, x: Tensor, sublayers: Sequence[Sublayer], observe: SourceObserver | None = None) -> Tensor:
        history = [at_least_single(x)]
        for mixing, sublayer in zip(self.connections, sublayers, strict=True):
            mixed, remembered = mixing(history, observe)
            history = [mixed + sublayer(history[0]), *remembered][: self.window]
        return history[0]


class Mixing(nn.Module):
    """One connection: from the history, newest first, the next state before F is added, and what is remembered."""

    def __init__(self, variant: History, shape: tuple[int, ...] | None):
        super().__init__()
        self.variant = variant
        self.logits = None if shape is None else nn.Parameter(torch.zeros(shape))

    def forward(self, history: list[Tensor], observe: SourceObserver | None = None) -> tuple[Tensor, list[Tensor]]:
        if self.logits is None:
            if observe is not None:
                observe(torch.ones(1, 1, 1))
            return history[0], history
        return self.mix(self.logits, history, observe)

    def mix(
        self, logits: Tensor, history: list[Tensor], observe: SourceObserver | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """The same with these logits, one for each state (or row of each)."""
        square = self.variant.constraint == "doubly_stochastic"
        with torch.autocast(history[0].device.type, enabled=False):
            weights = self.matrix(logits) if square else self.simplex(logits)
            if observe is not None:
                observe((weights[0] if square else weights)[None, :, None])
            if not square:
                return weighted_sum(weights.unbind(0), history), history
            stacked = torch.stack(history)
            rows = (weights @ stacked.flatten(1)).view_as(stacked).unbind(0)
            return rows[0], list(rows)

    def matrix(self, logits: Tensor) -> Tensor:
        """Doubly stochastic [h, h]."""
        return CHARTS["sinkhorn"](logits.view(-1, 1), len(logits), sinkhorn(self.variant)).squeeze(2)

    def simplex(self, logits: Tensor) -> Tensor:
        """[h], newest first."""
        weights = logits.softmax(0)
        if self.variant.constraint == "identity_preserving":
            weights = (1 - self.variant.floor) * weights
            weights = torch.cat([weights[:1] + self.variant.floor, weights[1:]])
        return weights
