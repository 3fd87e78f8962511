"""DenseFormer: depth-weighted averages after blocks, in PyTorch. Mirrors mlx/history/denseformer.py.

The specification is mhc_exp.topology.reference.history.denseformer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mhc_exp.config.history_variants import DenseFormer
from mhc_exp.topology.history.denseformer import sources
from mhc_exp.torch.history.blocks import at_least_single, weighted_sum
from mhc_exp.torch.wiring import SourceObserver, Sublayer, with_residuals


class DepthWeightedAverages(nn.Module):
    """X_i = B_i(Y_(i-1)), Y_i = sum_j alpha_ij X_j (arXiv:2402.02622)."""

    def __init__(self, variant: DenseFormer, width: int, depth: int):
        super().__init__()
        built = nn.ModuleList(Average(indices) for indices in sources(variant, depth))
        self.connections: Sequence[Average] = built  # type: ignore[assignment]

    def forward(self, x: Tensor, sublayers: Sequence[Sublayer], observe: SourceObserver | None = None) -> Tensor:
        outputs = [at_least_single(x)]
        x = outputs[0]
        for average, attention, mlp in zip(self.connections, sublayers[::2], sublayers[1::2], strict=True):
            outputs.append(with_residuals((attention, mlp))(x))
            x = average(outputs, observe)
        return x


class Average(nn.Module):
    """One average over the outputs `indices`; the newest output as it is without any."""

    def __init__(self, indices: range):
        super().__init__()
        self.indices = indices
        self.weight = nn.Parameter(torch.zeros(len(indices))) if indices else None

    def forward(self, outputs: list[Tensor], observe: SourceObserver | None = None) -> Tensor:
        if observe is not None:
            observe(torch.ones(1, 1, 1) if self.weight is None else self.weight[None, :, None])
        if self.weight is None:
            return outputs[-1]
        return weighted_sum(self.weight.unbind(0), [outputs[index] for index in self.indices])
