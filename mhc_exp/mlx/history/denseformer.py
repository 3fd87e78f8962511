"""DenseFormer: depth-weighted averages after blocks, in MLX. Mirrors torch/history/denseformer.py.

The specification is mhc_exp.topology.reference.history.denseformer.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
from mlx import nn

from mhc_exp.config.history_variants import DenseFormer
from mhc_exp.mlx.history.blocks import unbind, weighted_sum
from mhc_exp.mlx.wiring import SourceObserver, Sublayer, with_residuals
from mhc_exp.topology.history.denseformer import sources


class DepthWeightedAverages(nn.Module):
    """X_i = B_i(Y_(i-1)), Y_i = sum_j alpha_ij X_j (arXiv:2402.02622)."""

    def __init__(self, variant: DenseFormer, width: int, depth: int):
        super().__init__()
        self.connections = [Average(indices) for indices in sources(variant, depth)]

    def __call__(self, x: mx.array, sublayers: Sequence[Sublayer], observe: SourceObserver | None = None) -> mx.array:
        outputs = [x.astype(mx.float32)]
        x = outputs[0]
        for average, attention, mlp in zip(self.connections, sublayers[::2], sublayers[1::2], strict=True):
            outputs.append(with_residuals((attention, mlp))(x))
            x = average(outputs, observe)
        return x


class Average(nn.Module):
    """One average over the outputs `indices`; the newest output as it is without any."""

    def __init__(self, indices: range):
        super().__init__()
        self._indices = indices
        if indices:
            self.weight = mx.zeros(len(indices))

    def __call__(self, outputs: list[mx.array], observe: SourceObserver | None = None) -> mx.array:
        if observe is not None:
            observe(self.weight[None, :, None] if "weight" in self else mx.ones((1, 1, 1)))
        if "weight" not in self:
            return outputs[-1]
        return weighted_sum(unbind(self.weight), [outputs[index] for index in self._indices])
