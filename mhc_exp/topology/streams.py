"""The stream family without a framework: its parameters' initial values, its arithmetic, and what it is at step 0."""

from __future__ import annotations

import numpy as np

from mhc_exp.config.variants import Streams
from mhc_exp.topology.body_scale import BodyScale
from mhc_exp.topology.charts import CHARTS, keeps_equal_streams
from mhc_exp.topology.expansion import expansion_flops, expansion_values
from mhc_exp.topology.init import PRESETS, connection_values, readout_values
from mhc_exp.topology.layout import connections, layout
from mhc_exp.topology.learning import Parts


def values(variant: Streams, width: int, depth: int, seed: int) -> dict[str, np.ndarray]:
    """Initial float32 values of all connection parameters."""
    found: dict[str, np.ndarray] = {}
    for index in range(connections(variant, depth)):
        found |= connection_values(variant, width, index, f"topology.connections.{index}.", seed)
    found |= readout_values(variant, width, "topology.readout.")
    return found | expansion_values(variant.expand, variant.streams, width, "topology.expand.", seed)


def body_scale(variant: Streams, depth: int) -> BodyScale:
    """The HC paper's implementation note: output projections times sqrt(n)."""
    return BodyScale(output=variant.streams**0.5 if variant.scale_output_init else 1.0)


def flops_per_token(variant: Streams, width: int, depth: int) -> float:
    """Forward FLOPs per token of the wiring: its connections, the expansion and a weighted read-out."""
    scaling = expansion_flops(variant.expand, variant.streams, width)
    return connections(variant, depth) * connection_flops(variant, width) + scaling + readout_flops(variant, width)


def readout_flops(variant: Streams, width: int) -> float:
    """Of `reduce=head` its norm, projection and sum, of `last_read` the sum; plain sums and means are not counted."""
    streams = variant.streams
    head = (2 * streams + 3) * streams * width if variant.reduce == "head" else 0
    return head + (2 * streams * width if variant.reduce in ("head", "last_read") else 0)


def connection_flops(variant: Streams, width: int) -> float:
    """Forward FLOPs per token of one connection: projection, chart (free if static), read, mix, write."""
    streams, sizes = variant.streams, layout(variant)
    mixing = 0 if variant.mix.chart == "identity" else 2 * streams**2 * width
    apply = 2 * streams * width + mixing + 2 * streams * width
    predict = 0.0
    if variant.coefficients == "dynamic":
        columns = sizes.total * streams * width if variant.norm == "flat_rms" else (sizes.total * width)
        predict = 2.0 * columns + 3 * streams * width
        predict += CHARTS[variant.mix.chart].flops(streams, variant.mix)
    return apply + predict


def connection(variant: Streams) -> Streams:
    """What each connection is."""
    return variant


def wrapped(variant: Streams, depth: int) -> list[str]:
    """What each connection wraps: a block, or one of its sublayers."""
    if variant.site == "block":
        return [f"block {block}" for block in range(depth)]
    return [f"{sublayer} {block}" for block in range(depth) for sublayer in ("attention", "mlp")]


def kept(variant: Streams, depth: int) -> float:
    """Tensors [B, T, C] that the wiring carries from one sublayer to the next."""
    return variant.streams


def streams_of(variant: Streams) -> int:
    """All streams report their coefficients."""
    return variant.streams


def parts(variant: Streams) -> Parts:
    """What makes H_pre, H_post and H_res (nothing for a chart without logits), and the scales."""
    static = dict(zip(("read", "write", "mix"), layout(variant).slices, strict=True))
    layer = {"read": slice(0, 1), "write": slice(1, 2), "mix": slice(2, None)}
    dynamic = layer if variant.norm == "layer" else static
    made = {part: [("bias", rows), ("weight", dynamic[part])] for part, rows in static.items()}
    if not layout(variant).mix:
        del made["mix"]
    return made | {"scale": [("scale", slice(None))]}


def scale_entries(variant: Streams) -> dict[str, int | slice]:
    """Entry of `scale` of each part that has one; with a norm per stream, read and mix share theirs."""
    sizes = layout(variant)
    count = len(sizes.parts) if variant.norm == "layer" else sizes.scales(variant.mix)
    entries: dict[str, int | slice] = {"read": 0, "write": 1, "mix": 0 if variant.norm == "layer" else 2}
    return {part: entries[part] for part in ("read", "write", "mix")[:count]}


def equals_prenorm_at_step_0(variant: Streams) -> bool:
    """Replicated streams stay equal to the residual state if every stream receives one F and the applied H_res has unit
    row sums; then any read, its own or the one before, is absorbed by F's input norm, and any read-out by the final
    norm.
    """
    return _keeps_one_state(variant) and variant.site == "sublayer" and not variant.scale_output_init


def preserves_the_function_at_step_0(variant: Streams) -> bool:
    """Whether wrapping the branches of any residual network leaves its function as it is, with no norm to absorb a
    factor: what equals pre-norm, whose read weights sum to one and whose streams are averaged.
    """
    unit_read = PRESETS[variant.init].unit_read and variant.streams > 1 and variant.read.eps == 0
    return _keeps_one_state(variant) and unit_read and variant.reduce == "mean"


def _keeps_one_state(variant: Streams) -> bool:
    """Whether all streams are the residual state at step 0."""
    preset = PRESETS[variant.init]
    free_identity = variant.mix.chart == "free" and variant.init == "hc_paper"
    return (
        preset.unit_write
        and variant.write.eps == 0
        and (free_identity or keeps_equal_streams(variant.mix))
        and variant.expand == "replicate"
        and (variant.alpha == 0 or preset.weight_std == 0)
    )
