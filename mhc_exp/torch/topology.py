"""From a variant to its wiring in PyTorch. Mirrors mhc_exp/mlx/topology.py."""

from __future__ import annotations

from torch import nn

from mhc_exp.config.variants import Variant
from mhc_exp.torch.gated import GatedStreams
from mhc_exp.torch.history.attnres import AttentionResiduals
from mhc_exp.torch.history.deep_cross_attention import DeepCrossAttentions
from mhc_exp.torch.history.denseformer import DepthWeightedAverages
from mhc_exp.torch.history.mixing import HistoryMixing
from mhc_exp.torch.history.muddformer import MultiwayDense
from mhc_exp.torch.history.value_residual import ValueResiduals
from mhc_exp.torch.looped import LoopedStreams
from mhc_exp.torch.residual import ResidualStream
from mhc_exp.torch.segments import SegmentStreams
from mhc_exp.torch.sparse import SparseStreams
from mhc_exp.torch.streams import HyperStreams

FAMILIES = {
    "residual": ResidualStream,
    "streams": HyperStreams,
    "looped": LoopedStreams,
    "gated": GatedStreams,
    "segments": SegmentStreams,
    "sparse": SparseStreams,
    "history": HistoryMixing,
    "denseformer": DepthWeightedAverages,
    "attnres": AttentionResiduals,
    "muddformer": MultiwayDense,
    "value_residual": ValueResiduals,
    "deep_cross_attention": DeepCrossAttentions,
}


def build(variant: Variant, width: int, depth: int) -> nn.Module:
    """The wiring of a model: `forward(x0 [B, T, C], sublayers, observe) -> [B, T, C]`."""
    return FAMILIES[variant.family](variant, width, depth)
