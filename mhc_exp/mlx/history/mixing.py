"""Learned mixing of the last H states, in MLX. Mirrors torch/history/mixing.py.

The specification is mhc_exp.topology.reference.history.mixing.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
from mlx import nn

from mhc_exp.config.history_variants import History
from mhc_exp.mlx.charts import CHARTS
from mhc_exp.mlx.history.blocks import unbind, weighted_sum
from mhc_exp.mlx.wiring import SourceObserver, Sublayer
from mhc_exp.topology.history.mixing import shapes, sinkhorn


class HistoryMixing(nn.Module):
    """x_(l+1) = sum_k a_k x_(l-k) + F(x_l); the history is local to a call and never detached."""

    def __init__(self, variant: History, width: int, depth: int):
        super().__init__()
        self._window = variant.window
        self.connections = [Mixing(variant, one.get("logits")) for one in shapes(variant, width, depth)]

    def __call__(self, x: mx.array, sublayers: Sequence[Sublayer], observe: SourceObserver | None = None) -> mx.array:
        history = [x.astype(mx.float32)]
        for mixing, sublayer in zip(self.connections, sublayers, strict=True):
            mixed, remembered = mixing(history, observe)
            history = [mixed + sublayer(history[0]), *remembered][: self._window]
        return history[0]


class Mixing(nn.Module):
    """One connection: from the history, newest first, the next state before F is added, and what is remembered."""

    def __init__(self, variant: History, shape: tuple[int, ...] | None):
        super().__init__()
        self._variant = variant
        if shape is not None:
            self.logits = mx.zeros(shape)

    def __call__(
        self, history: list[mx.array], observe: SourceObserver | None = None
    ) -> tuple[mx.array, list[mx.array]]:
        if "logits" not in self:
            if observe is not None:
                observe(mx.ones((1, 1, 1)))
            return history[0], history
        return self.mix(self.logits, history, observe)

    def mix(
        self, logits: mx.array, history: list[mx.array], observe: SourceObserver | None = None
    ) -> tuple[mx.array, list[mx.array]]:
        """The same with these logits, one for each state (or row of each)."""
        square = self._variant.constraint == "doubly_stochastic"
        weights = self.matrix(logits) if square else self.simplex(logits)
        if observe is not None:
            observe((weights[0] if square else weights)[None, :, None])
        if not square:
            return weighted_sum(unbind(weights), history), history
        stacked = mx.stack(history)
        rows = unbind((weights @ stacked.flatten(1)).reshape(stacked.shape))
        return rows[0], rows

    def matrix(self, logits: mx.array) -> mx.array:
        """Doubly stochastic [h, h]."""
        return CHARTS["sinkhorn"](logits.reshape(-1, 1), len(logits), sinkhorn(self._variant)).squeeze(2)

    def simplex(self, logits: mx.array) -> mx.array:
        """[h], newest first."""
        weights = mx.softmax(logits)
        if self._variant.constraint == "identity_preserving":
            weights = (1 - self._variant.floor) * weights
            weights = mx.concatenate([weights[:1] + self._variant.floor, weights[1:]])
        return weights
