"""The gated family without a framework: initial values, arithmetic, and what its wirings are at step 0."""

from __future__ import annotations

import numpy as np

from mhc_exp import rng
from mhc_exp.config.variants import Gated
from mhc_exp.topology.expansion import expansion_flops, expansion_values
from mhc_exp.topology.learning import Parts

Shapes = dict[str, tuple[int, ...]]


def read_shapes(variant: Gated, width: int) -> Shapes:
    """Parameters of one read: `gain` [S, C] of the normed streams, `down` [r, S*C] and `up` [S*C, r] of their gates."""
    streams, rank = variant.streams, width // variant.bottleneck
    return {"gain": (streams, width), "down": (rank, streams * width), "up": (streams * width, rank)}


def connection_shapes(variant: Gated, width: int) -> Shapes:
    """Parameters of one connection: those of its read, and `write` [S, S*C]."""
    return read_shapes(variant, width) | {"write": (variant.streams, variant.streams * width)}


def values(variant: Gated, width: int, depth: int, seed: int) -> dict[str, np.ndarray]:
    """Initial float32 values of all parameters: gains one, projections uniform with the stated deviation."""
    tables = {f"topology.connections.{index}.": connection_shapes(variant, width) for index in range(2 * depth)}
    if variant.reduce == "gate":
        tables["topology.readout."] = read_shapes(variant, width)
    found = {prefix + name: shape for prefix, shapes in tables.items() for name, shape in shapes.items()}
    bound = variant.weight_std * 3**0.5
    started = {
        name: np.ones(shape, np.float32)
        if name.endswith(".gain")
        else rng.uniform(seed, rng.stream_of(name), shape, bound)
        for name, shape in found.items()
    }
    return started | expansion_values(variant.expand, variant.streams, width, "topology.expand.", seed)


def flops_per_token(variant: Gated, width: int, depth: int) -> float:
    """Forward FLOPs per token of the wiring: norms and gains, gate projections, read, write."""
    flat, rank = variant.streams * width, width // variant.bottleneck
    read = 4 * flat + 4 * flat * rank + 2 * flat
    write = 2 * variant.streams * flat + 2 * flat
    scaling = expansion_flops(variant.expand, variant.streams, width)
    return 2 * depth * (read + write) + (read if variant.reduce == "gate" else 0) + scaling


def kept(variant: Gated, depth: int) -> float:
    """Tensors [B, T, C] that the wiring carries from one sublayer to the next."""
    return variant.streams


def streams_of(variant: Gated) -> int:
    """All streams report their coefficients."""
    return variant.streams


def parts(variant: Gated) -> Parts:
    """What makes the gates of the read, and the write weights."""
    return {"read": [(name, slice(None)) for name in ("gain", "down", "up")], "write": [("write", slice(None))]}


def equals_prenorm_at_step_0(variant: Gated) -> bool:
    """Never: gates near 1/2 halve what a sublayer reads after its norm, which nothing undoes."""
    return False
