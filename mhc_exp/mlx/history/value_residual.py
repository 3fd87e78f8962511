"""Value residual learning, ResFormer, in MLX. Mirrors torch/history/value_residual.py.

The specification is mhc_exp.topology.reference.history.value_residual.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
from mlx import nn

from mhc_exp.config.history_variants import ValueResidual
from mhc_exp.mlx.history.blocks import Attention, blocks, unbind
from mhc_exp.mlx.wiring import SourceObserver, Sublayer
from mhc_exp.topology.history.value_residual import mixes


class ValueResiduals(nn.Module):
    """The pre-norm residual with V_n = lambda_1 V_1 + lambda_2 H_(n-1) W_n^V (arXiv:2410.17897)."""

    def __init__(self, variant: ValueResidual, width: int, depth: int):
        super().__init__()
        self.connections = [ValueMix(variant, mixed) for mixed in mixes(variant, depth)]

    def __call__(self, x: mx.array, sublayers: Sequence[Sublayer], observe: SourceObserver | None = None) -> mx.array:
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
        self._fixed = (variant.first, variant.own) if mixed else None
        if mixed and variant.learnable:
            self.weight = mx.zeros(2)

    def attend(
        self, attention: Attention, x: mx.array, first: mx.array | None, observe: SourceObserver | None
    ) -> tuple[mx.array, mx.array]:
        """Attention's output on x with mixed values, and the first block's values: this block's if there are none."""
        hidden = attention.norm(x)
        q, k, v = attention.project(hidden, hidden, hidden)
        first = v if first is None else first
        return attention.attend(q, k, self(first, v, observe)), first

    def __call__(self, first: mx.array, own: mx.array, observe: SourceObserver | None = None) -> mx.array:
        if observe is not None:
            weights = self.weight if "weight" in self else mx.array(self._fixed or (1.0,))
            observe(weights[None, :, None])
        if self._fixed is None:
            return own
        lambda_1, lambda_2 = unbind(self.weight) if "weight" in self else self._fixed
        return (lambda_1 * first + lambda_2 * own).astype(own.dtype)
