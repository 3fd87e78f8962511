"""The looped family without a framework: which blocks are repeated, initial values, arithmetic.

L blocks with weights: `begin`, then the middle ones `loops` times, then `end`. Streams exist during the loops alone.
"""

from __future__ import annotations

import numpy as np

from mhc_exp.config.variants import Looped, Streams
from mhc_exp.topology import streams
from mhc_exp.topology.expansion import expansion_flops, expansion_values
from mhc_exp.topology.init import connection_values
from mhc_exp.topology.learning import Parts


def middle(variant: Looped, depth: int) -> tuple[int, int]:
    """First block that is repeated, and the first one after it that is not."""
    quarter = depth // 4
    begin = quarter if variant.begin is None else variant.begin
    end = quarter if variant.end is None else variant.end
    return begin, depth - end


def passes(variant: Looped, depth: int) -> list[int]:
    """How often each block is called."""
    first, stop = middle(variant, depth)
    return [variant.loops if first <= block < stop else 1 for block in range(depth)]


def connection(variant: Looped) -> Streams:
    """The connection around the middle blocks, as the stream family describes it."""
    return Streams(
        name=variant.name,
        family="streams",
        streams=variant.streams,
        site="block",
        coefficients=variant.coefficients,
        norm=variant.norm,
        squash=variant.squash,
        alpha=variant.alpha,
        read=variant.read,
        read_from="current",
        write=variant.write,
        mix=variant.mix,
        expand=variant.expand,
        reduce="mean",
        init=variant.init,
        scale_output_init=False,
    )


def wrapped(variant: Looped, depth: int) -> list[str]:
    """What each connection wraps: one loop."""
    return [f"loop {index}" for index in range(variant.loops)]


def position_shapes(variant: Looped, width: int) -> dict[str, tuple[int, ...]]:
    """`loop_positions` [loops, C]: e_l."""
    return {"loop_positions": (variant.loops, width)} if variant.loop_positions == "learned" else {}


def values(variant: Looped, width: int, depth: int, seed: int) -> dict[str, np.ndarray]:
    """Initial float32 values of all parameters; loop positions start at zero."""
    found: dict[str, np.ndarray] = {}
    for index in range(variant.loops):
        found |= connection_values(connection(variant), width, index, f"topology.connections.{index}.", seed)
    for name, shape in position_shapes(variant, width).items():
        found[f"topology.{name}"] = np.zeros(shape, np.float32)
    return found | expansion_values(variant.expand, variant.streams, width, "topology.expand.", seed)


def flops_per_token(variant: Looped, width: int, depth: int) -> float:
    """Forward FLOPs per token of the connections; that blocks are called again is counted by `passes`."""
    positions = variant.loops * width if variant.loop_positions == "learned" else 0
    scaling = expansion_flops(variant.expand, variant.streams, width)
    return variant.loops * streams.connection_flops(connection(variant), width) + positions + scaling


def kept(variant: Looped, depth: int) -> float:
    """Tensors [B, T, C] carried from one sublayer to the next: n streams wait while the middle blocks carry theirs."""
    return variant.streams + 1


def streams_of(variant: Looped) -> int:
    """All streams report their coefficients, once per loop."""
    return variant.streams


def parts(variant: Looped) -> Parts:
    """Those of the connection around the middle blocks."""
    return streams.parts(connection(variant))


def scale_entries(variant: Looped) -> dict[str, int | slice]:
    """Those of the connection around the middle blocks."""
    return streams.scale_entries(connection(variant))


def equals_prenorm_at_step_0(variant: Looped) -> bool:
    """Never: what the middle blocks put out contains what they read, and comes on top of what H_res keeps."""
    return False
