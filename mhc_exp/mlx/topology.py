"""From a variant to its wiring in MLX. Mirrors mhc_exp/torch/topology.py."""

from __future__ import annotations

from mlx import nn

from mhc_exp.config.variants import Variant
from mhc_exp.mlx.gated import GatedStreams
from mhc_exp.mlx.history.attnres import AttentionResiduals
from mhc_exp.mlx.history.deep_cross_attention import DeepCrossAttentions
from mhc_exp.mlx.history.denseformer import DepthWeightedAverages
from mhc_exp.mlx.history.mixing import HistoryMixing
from mhc_exp.mlx.history.muddformer import MultiwayDense
from mhc_exp.mlx.history.value_residual import ValueResiduals
from mhc_exp.mlx.looped import LoopedStreams
from mhc_exp.mlx.residual import ResidualStream
from mhc_exp.mlx.segments import SegmentStreams
from mhc_exp.mlx.sparse import SparseStreams
from mhc_exp.mlx.streams import HyperStreams

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
    """The wiring of a model: called as `wiring(x0 [B, T, C], sublayers, observe) -> [B, T, C]`."""
    return FAMILIES[variant.family](variant, width, depth)
