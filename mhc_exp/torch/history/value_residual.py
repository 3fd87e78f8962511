"""Value residual learning, ResFormer, in PyTorch. Mirrors mlx/history/value_residual.py.

The specification is mhc_exp.topology.reference.history.value_residual.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mhc_exp.config.history_variants import ValueResidual
from mhc_exp.topology.history.value_residual import mixes
from mhc_exp.torch.history.blocks import Attention, blocks
from mhc_exp.torch.wiring import SourceObserver, Sublayer


class ValueResiduals(nn.Module):
    """The pre-norm residual with V_n = lambda_1 V_1 + lambda_2 H_(n-1) W_n^V (arXiv:2410.17897)."""

    def __init__(self, variant: ValueResidual, width: int, depth: int):
        super().__init__()
        built = nn.ModuleList(ValueMix(variant, mixed) for mixed in mixes(variant, depth))
        self.connections: Sequence[ValueMix] = built  # type: ignore[assignment]

    def forward(self, x: Tensor, sublayers: Sequence[Sublayer], observe: SourceObserver | None = None) -> Tensor:
        first = None
        for mix, (attention, mlp) in zip(self.connections, blocks(sublayers), strict=True):
            y, first = mix.attend(attention, x, first, observe)
            x = x + y
            x = x + mlp(x)
        return x


class ValueMix(nn.Module):
    """Values of one block; its own as they are before block `start`."""

    def __init__(self, variant: ValueResidual, mixed: bool):
        super().__init__()
        self.fixed = (variant.first, variant.own) if mixed else None
        self.weight = nn.Parameter(torch.zeros(2)) if mixed and variant.learnable else None

    def attend(
        self, attention: Attention, x: Tensor, first: Tensor | None, observe: SourceObserver | None
    ) -> tuple[Tensor, Tensor]:
        """Attention's output on x with mixed values, and the first block's values: this block's if there are none."""
        hidden = attention.norm(x)
        q, k, v = attention.project(hidden, hidden, hidden)
        first = v if first is None else first
        return attention.attend(q, k, self(first, v, observe)), first

    def forward(self, first: Tensor, own: Tensor, observe: SourceObserver | None = None) -> Tensor:
        if observe is not None:
            weights = torch.tensor(self.fixed or (1.0,)) if self.weight is None else self.weight
            observe(weights[None, :, None])
        if self.fixed is None:
            return own
        lambda_1, lambda_2 = self.fixed if self.weight is None else self.weight.unbind(0)
        return lambda_1 * first + lambda_2 * own
