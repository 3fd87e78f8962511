"""The segments family without a framework: layout, initial values, arithmetic, and what its wirings are at step 0.

n segments, m fractions, W = C/m the width of a segment. Coefficients are rows over the n segments: read | write | mix.
"""

from __future__ import annotations

import numpy as np

from mhc_exp import rng
from mhc_exp.config.variants import Segments
from mhc_exp.topology.learning import Parts

Shapes = dict[str, tuple[int, ...]]


def rows(variant: Segments) -> tuple[slice, slice, slice]:
    """Rows of the coefficients: read [m, n], write [m, n] (diagonal: [1, n]) and mix [n, n]."""
    read = variant.fractions
    write = read + (1 if variant.write == "diagonal" else variant.fractions)
    return slice(0, read), slice(read, write), slice(write, write + variant.segments)


def connection_shapes(variant: Segments, width: int) -> Shapes:
    """Parameters of one connection. `bias` [K, n] holds the static coefficients, K rows. Dynamic connections add
    scale * squash(weight @ norm(segment) / tau): weight [K, W]; scale [2] for (read and mix, write), or [K, n].
    """
    total, segment = rows(variant)[2].stop, width // variant.fractions
    shapes: Shapes = {"bias": (total, variant.segments)}
    if variant.coefficients == "static":
        return shapes
    shapes |= {"norm.weight": (segment,)} | ({"norm.bias": (segment,)} if variant.norm == "layer" else {})
    scale = (2,) if variant.scale == "scalar" else (total, variant.segments)
    return shapes | {"weight": (total, segment), "scale": scale}


def temperature(variant: Segments, width: int) -> float:
    """tau: what the projection is divided by."""
    return (width // variant.fractions) ** 0.5 if variant.temperature == "sqrt_width" else 1.0


def belongs(variant: Segments) -> np.ndarray:
    """[m, n]: 1 where segment j is of part i = j mod m of the width, 0 elsewhere."""
    return (np.arange(variant.fractions)[:, None] == np.arange(variant.segments) % variant.fractions).astype(np.float32)


def values(variant: Segments, width: int, depth: int, seed: int) -> dict[str, np.ndarray]:
    """Initial float32 values of all parameters: arXiv:2503.14125 eq. 15, arXiv:2511.11238 eq. 11 and 12."""
    found = {}
    for index in range(2 * depth):
        found |= connection_values(variant, width, f"topology.connections.{index}.")
    return found | end_values(variant, width, seed)


def connection_values(variant: Segments, width: int, prefix: str) -> dict[str, np.ndarray]:
    """Initial values of a connection, which are the same for all of them."""
    constants = {"norm.weight": 1.0, "scale": variant.alpha}
    return {
        prefix + name: _static(variant) if name == "bias" else np.full(shape, constants.get(name, 0.0), np.float32)
        for name, shape in connection_shapes(variant, width).items()
    }


def _static(variant: Segments) -> np.ndarray:
    """Read the first m segments, write part j mod m to segment j, mix nothing."""
    segments, fractions = variant.segments, variant.fractions
    write = np.ones((1, segments)) if variant.write == "diagonal" else belongs(variant)
    return np.concatenate([np.eye(fractions, segments), write, np.eye(segments)]).astype(np.float32)


def end_values(variant: Segments, width: int, seed: int) -> dict[str, np.ndarray]:
    """Initial values of the learned linear maps in and out: the first m segments start as the embedding and are the
    first read-out.
    """
    virtual, found = variant.segments * width // variant.fractions, {}
    if variant.expand == "linear":
        name = "topology.expand.weight"
        rest = rng.uniform(seed, rng.stream_of(name), (virtual - width, width), (3 / width) ** 0.5)
        found[name] = np.concatenate([np.eye(width, dtype=np.float32), rest])
    if variant.reduce == "linear":
        found["topology.reduce.weight"] = np.eye(width, virtual, dtype=np.float32)
    return found


def flops_per_token(variant: Segments, width: int, depth: int) -> float:
    """Forward FLOPs per token of the wiring: projection, read, write, mix, and learned linear maps at the ends."""
    segments, fractions = variant.segments, variant.fractions
    segment = width // fractions
    written = segments if variant.write == "diagonal" else segments * fractions
    apply = 2 * segment * (fractions * segments + written + segments**2)
    predict = 0
    if variant.coefficients == "dynamic":
        predict = 2 * rows(variant)[2].stop * segments * segment + 3 * segments * segment
    virtual = segments * segment
    ends = 2 * width * virtual * ((variant.expand == "linear") + (variant.reduce == "linear"))
    return 2 * depth * (apply + predict) + ends + (3 * virtual if variant.reduce_norm == "group" else 0)


def kept(variant: Segments, depth: int) -> float:
    """Tensors [B, T, C] that the wiring carries from one sublayer to the next: the virtual width over the width."""
    return variant.segments / variant.fractions


def streams_of(variant: Segments) -> int:
    """Segments report their coefficients as streams do; read and write weights are lengths over the m parts."""
    return variant.segments


def aligned(variant: Segments) -> bool:
    """Segments hold different channels of the width, unless it is not divided."""
    return variant.fractions == 1


def parts(variant: Segments) -> Parts:
    """What makes read, write and mix, and the scales."""
    named = dict(zip(("read", "write", "mix"), rows(variant), strict=True))
    return {part: [("bias", one), ("weight", one)] for part, one in named.items()} | {"scale": [("scale", slice(None))]}


def scale_entries(variant: Segments) -> dict[str, int | slice]:
    """Entries of `scale` of each part: one that read and mix share and one for write, or one per coefficient."""
    if variant.scale == "scalar":
        return {"read": 0, "write": 1, "mix": 0}
    return dict(zip(("read", "write", "mix"), rows(variant), strict=True))


def preserves_the_function_at_step_0(variant: Segments) -> bool:
    """Whether wrapping the branches of any residual network leaves its function as it is."""
    return equals_prenorm_at_step_0(variant) and variant.reduce_norm == "none"


def equals_prenorm_at_step_0(variant: Segments) -> bool:
    """The first m segments are the residual state: they start as the embedding, are read alone, and receive F. They are
    also the read-out, or one of equal copies that the read-out averages.
    """
    return variant.reduce == "linear" or variant.expand == "repeat" or variant.segments == variant.fractions
