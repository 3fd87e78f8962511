"""The sparse family without a framework: layout, initial values, arithmetic, and what its wirings are at step 0.

n streams, k of them active, f of those fixed. Raw coefficients of the active streams lie as write | mix.
"""

from __future__ import annotations

import numpy as np

from mhc_exp import rng
from mhc_exp.config.variants import Sparse
from mhc_exp.topology.charts import CHARTS, initial_logits, keeps_equal_streams
from mhc_exp.topology.expansion import expansion_flops, expansion_values
from mhc_exp.topology.init import PRESETS
from mhc_exp.topology.learning import Parts

Shapes = dict[str, tuple[int, ...]]


def mix_logits(variant: Sparse) -> int:
    """Logits of the k x k mixing matrix."""
    return CHARTS[variant.mix.chart].logits(variant.active, variant.mix.expansion)


def routed(variant: Sparse) -> int:
    """How many active streams the router chooses."""
    return variant.active - variant.fixed


def connection_shapes(variant: Sparse, width: int) -> Shapes:
    """Parameters of one connection.

    All streams: `read_bias` [n] and `read_weight` [n, n*C]; `router` [n - f, n*C], if there is anything to choose (the
    paper's rows for the fixed streams, whose scores it ignores, are left out). Active streams: `bias` [k + mix] and
    `weight` [k + mix, k*C]. `scale`: read, write and, if the chart has logits and their scale is learned, mix.
    """
    streams, active, logits = variant.streams, variant.active, mix_logits(variant)
    shapes: Shapes = {"read_bias": (streams,), "read_weight": (streams, streams * width)}
    if routed(variant):
        shapes["router"] = (streams - variant.fixed, streams * width)
    packed, scales = active + logits, 3 if logits and variant.mix.scale == "learned" else 2
    return shapes | {"bias": (packed,), "weight": (packed, active * width), "scale": (scales,)}


def values(variant: Sparse, width: int, depth: int, seed: int) -> dict[str, np.ndarray]:
    """Initial float32 values of all parameters."""
    found: dict[str, np.ndarray] = {}
    for index in range(2 * depth):
        found |= connection_values(variant, width, index, f"topology.connections.{index}.", seed)
    return found | expansion_values(variant.expand, variant.streams, width, "topology.expand.", seed)


def connection_values(variant: Sparse, width: int, index: int, prefix: str, seed: int) -> dict[str, np.ndarray]:
    """Initial values of connection `index`: the preset's read over all streams, its write and mix over the active ones;
    the router is always random.
    """
    preset, active = PRESETS[variant.init], variant.active
    mix = initial_logits(variant.mix, active, *preset.mix)
    static = {
        "read_bias": preset.read(variant.streams, index),
        "bias": np.concatenate([preset.write(active, index), mix]),
    }
    found = {}
    for name, shape in connection_shapes(variant, width).items():
        if name in static:
            value = static[name].astype(np.float32)
        elif name == "scale":
            value = np.full(shape, variant.alpha, np.float32)
        else:
            bound = variant.router_std * 3**0.5 if name == "router" else preset.bound(shape[1])
            value = rng.uniform(seed, rng.stream_of(prefix + name), shape, bound)
        found[prefix + name] = value
    return found


def flops_per_token(variant: Sparse, width: int, depth: int) -> float:
    """Forward FLOPs per token of the wiring: norms, projections, chart, read of all, mix and write of the active."""
    streams, active = variant.streams, variant.active
    scores = streams + (streams - variant.fixed if routed(variant) else 0)
    norms = 6 if routed(variant) else 3
    predict = (2 * scores + norms) * streams * width + (2 * (active + mix_logits(variant)) + 3) * active * width
    predict += CHARTS[variant.mix.chart].flops(active, variant.mix)
    mixing = 0 if variant.mix.chart == "identity" else 2 * active**2 * width
    apply = 2 * streams * width + mixing + 2 * active * width
    scaling = expansion_flops(variant.expand, streams, width)
    return 2 * depth * (predict + apply) + scaling


def kept(variant: Sparse, depth: int) -> float:
    """Tensors [B, T, C] that the wiring carries from one sublayer to the next."""
    return variant.streams


def streams_of(variant: Sparse) -> int:
    """All streams report: the mixing of the active ones inside an identity, write zero for the others."""
    return variant.streams


def parts(variant: Sparse) -> Parts:
    """What makes the read, the write and the mixing of active streams (nothing without logits), scales and router."""
    active = variant.active
    named = {"write": slice(0, active)} | ({"mix": slice(active, None)} if mix_logits(variant) else {})
    made = {part: [("bias", rows), ("weight", rows)] for part, rows in named.items()}
    everything = {"scale": [("scale", slice(None))], "router": [("router", slice(None))]}
    return {"read": [("read_bias", slice(None)), ("read_weight", slice(None))], **made, **everything}


def scale_entries(variant: Sparse) -> dict[str, int | slice]:
    """Entry of `scale` of each part that has one."""
    learned = mix_logits(variant) and variant.mix.scale == "learned"
    return {"read": 0, "write": 1, **({"mix": 2} if learned else {})}


def equals_prenorm_at_step_0(variant: Sparse) -> bool:
    """Only if every stream is updated and the router does not scale what is written; then as for streams."""
    preset = PRESETS[variant.init]
    all_alike = variant.fixed == variant.active == variant.streams and keeps_equal_streams(variant.mix)
    dynamic = variant.alpha > 0 and preset.weight_std > 0
    return all_alike and preset.unit_write and variant.expand == "replicate" and not dynamic
