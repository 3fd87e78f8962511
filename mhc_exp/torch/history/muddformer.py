"""MUDDFormer: dynamic dense connections, in PyTorch. Mirrors mlx/history/muddformer.py.

The specification is mhc_exp.topology.reference.history.muddformer. W ways (query, key, value, residual).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mhc_exp.config.history_variants import MUDDFormer
from mhc_exp.topology.history.muddformer import WAYS, shapes
from mhc_exp.topology.history.parameters import Shapes
from mhc_exp.topology.layout import NORM_EPS
from mhc_exp.torch.history.blocks import Attention, at_least_single, attend, blocks, weighted_sum
from mhc_exp.torch.wiring import SourceObserver, Sublayer


class MultiwayDense(nn.Module):
    """h = R + MHA(LN(Q), LN(K), LN(V)), X_i = h + FFN(LN(h)), Q, K, V, R = DA(X_0 ... X_i) (arXiv:2502.12170)."""

    def __init__(self, variant: MUDDFormer, width: int, depth: int):
        super().__init__()
        built = nn.ModuleList(Dense(one) for one in shapes(variant, width, depth))
        self.connections: Sequence[Dense] = built  # type: ignore[assignment]

    def forward(self, x: Tensor, sublayers: Sequence[Sublayer], observe: SourceObserver | None = None) -> Tensor:
        outputs = [at_least_single(x)]
        for attention, mlp in blocks(sublayers):
            x = _attended(attention, *self.inputs(outputs, observe))
            outputs.append(x + mlp(x))
        return self.inputs(outputs, observe)[-1]

    def inputs(self, outputs: list[Tensor], observe: SourceObserver | None) -> list[Tensor]:
        """Query, key, value and residual of the next block; the embedding four times for the first."""
        mixes = self.connections[len(outputs) - 2](outputs, observe) if len(outputs) > 1 else outputs
        return mixes if len(mixes) == WAYS else mixes[:1] * WAYS


def _attended(attention: Attention, query: Tensor, key: Tensor, value: Tensor, residual: Tensor) -> Tensor:
    """R + MHA(LN(Q), LN(K), LN(V)): the other three mixes end here."""
    return residual + attend(attention, query, key, value)


class Dense(nn.Module):
    """One dense aggregation, DA: a weighted sum of all outputs per way."""

    def __init__(self, shapes: Shapes):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(shapes["bias"]))
        dynamic = "hidden" in shapes
        self.hidden = nn.Parameter(torch.zeros(shapes["hidden"])) if dynamic else None
        self.output = nn.Parameter(torch.zeros(shapes["output"])) if dynamic else None

    def forward(self, outputs: list[Tensor], observe: SourceObserver | None = None) -> list[Tensor]:
        with torch.autocast(outputs[-1].device.type, enabled=False):
            weights = self.weights(outputs[-1])
            if observe is not None:
                observe(weights.flatten(2))
            return [weighted_sum(way.unbind(0), outputs) for way in weights.unbind(0)]

    def weights(self, x: Tensor) -> Tensor:
        """A [W, i+1, B, T, 1] from the newest output [B, T, C]: tokens last, so that each weight is contiguous."""
        if self.hidden is None or self.output is None:
            return self.bias[:, :, None, None, None]
        flat = x.flatten(0, 1)
        inverse_rms = torch.rsqrt(flat.square().mean(1) + NORM_EPS)
        hidden = functional.gelu((self.hidden @ flat.t()) * inverse_rms)  # [W, i+1, N]
        weights = torch.baddbmm(self.bias.unsqueeze(2), self.output, hidden)
        return weights.view(*self.bias.shape, *x.shape[:2], 1)
