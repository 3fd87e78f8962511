"""The specification: every wiring in float64 numpy, one step at a time, with the papers' equation numbers.

Axes: B batch, T time, S streams (the papers' n), C width. Nothing here is fast; the backends answer to it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mhc_exp.config.variants import Variant
from mhc_exp.topology.reference import gated, looped, residual, segments, sparse, streams
from mhc_exp.topology.reference.arithmetic import Parameters, Sublayer, below
from mhc_exp.topology.reference.charts import chart
from mhc_exp.topology.reference.history import (
    attnres,
    deep_cross_attention,
    denseformer,
    mixing,
    muddformer,
    value_residual,
)
from mhc_exp.topology.reference.sinkhorn import birkhoff_projection, sinkhorn
from mhc_exp.topology.reference.streams import coefficients

__all__ = ["Parameters", "Sublayer", "birkhoff_projection", "chart", "coefficients", "forward", "sinkhorn"]

FORWARD = {
    "residual": residual.forward,
    "streams": streams.forward,
    "looped": looped.forward,
    "gated": gated.forward,
    "segments": segments.forward,
    "sparse": sparse.forward,
    "history": mixing.forward,
    "denseformer": denseformer.forward,
    "attnres": attnres.forward,
    "muddformer": muddformer.forward,
    "value_residual": value_residual.forward,
    "deep_cross_attention": deep_cross_attention.forward,
}


def forward(x0: np.ndarray, sublayers: Sequence[Sublayer], parameters: Parameters, variant: Variant) -> np.ndarray:
    """Final hidden state [B, T, C] of embedding `x0` [B, T, C]; `parameters` are named as in the model."""
    return FORWARD[variant.family](x0, sublayers, below("topology.", parameters), variant)
