"""MUDDFormer: dynamic dense connections, in MLX. Mirrors torch/history/muddformer.py.

The specification is mhc_exp.topology.reference.history.muddformer. W ways (query, key, value, residual).
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
from mlx import nn

from mhc_exp.config.history_variants import MUDDFormer
from mhc_exp.mlx.history.blocks import Attention, attend, blocks, unbind, weighted_sum
from mhc_exp.mlx.wiring import SourceObserver, Sublayer
from mhc_exp.topology.history.muddformer import WAYS, shapes
from mhc_exp.topology.history.parameters import Shapes
from mhc_exp.topology.layout import NORM_EPS


class MultiwayDense(nn.Module):
    """h = R + MHA(LN(Q), LN(K), LN(V)), X_i = h + FFN(LN(h)), Q, K, V, R = DA(X_0 ... X_i) (arXiv:2502.12170)."""

    def __init__(self, variant: MUDDFormer, width: int, depth: int):
        super().__init__()
        self.connections = [Dense(one) for one in shapes(variant, width, depth)]

    def __call__(self, x: mx.array, sublayers: Sequence[Sublayer], observe: SourceObserver | None = None) -> mx.array:
        outputs = [x.astype(mx.float32)]
        for attention, mlp in blocks(sublayers):
            x = _attended(attention, *self.inputs(outputs, observe))
            outputs.append(x + mlp(x))
        return self.inputs(outputs, observe)[-1]

    def inputs(self, outputs: list[mx.array], observe: SourceObserver | None) -> list[mx.array]:
        """Query, key, value and residual of the next block; the embedding four times for the first."""
        mixes = self.connections[len(outputs) - 2](outputs, observe) if len(outputs) > 1 else outputs
        return mixes if len(mixes) == WAYS else mixes[:1] * WAYS


def _attended(attention: Attention, query: mx.array, key: mx.array, value: mx.array, residual: mx.array) -> mx.array:
    """R + MHA(LN(Q), LN(K), LN(V)): the other three mixes end here."""
    return residual + attend(attention, query, key, value)


class Dense(nn.Module):
    """One dense aggregation, DA: a weighted sum of all outputs per way."""

    def __init__(self, shapes: Shapes):
        super().__init__()
        self.bias = mx.zeros(shapes["bias"])
        if "hidden" in shapes:
            self.hidden = mx.zeros(shapes["hidden"])
            self.output = mx.zeros(shapes["output"])

    def __call__(self, outputs: list[mx.array], observe: SourceObserver | None = None) -> list[mx.array]:
        weights = self.weights(outputs[-1])
        if observe is not None:
            observe(weights.flatten(2))
        return [weighted_sum(unbind(way), outputs) for way in unbind(weights)]

    def weights(self, x: mx.array) -> mx.array:
        """A [W, i+1, B, T, 1] from the newest output [B, T, C]: tokens last, so that each weight is contiguous."""
        if "hidden" not in self:
            return self.bias[:, :, None, None, None]
        flat = x.flatten(0, 1)
        inverse_rms = mx.rsqrt(mx.square(flat).mean(1) + NORM_EPS)
        hidden = nn.gelu((self.hidden @ flat.T) * inverse_rms)  # [W, i+1, N]
        weights = self.bias[:, :, None] + self.output @ hidden
        return weights.reshape(*self.bias.shape, *x.shape[:2], 1)
