"""MUDDFormer without a framework: shapes and initial values of its dynamic dense connections."""

from __future__ import annotations

import numpy as np

from mhc_exp import rng
from mhc_exp.config.history_variants import MUDDFormer
from mhc_exp.topology.history.parameters import Shapes, named, newest
from mhc_exp.topology.history.reads import Read

WAYS = 4
"""Query, key, value and residual, in this order."""


def ways(variant: MUDDFormer, depth: int) -> list[int]:
    """Weight sets after each of the L blocks; the head reads a single mix."""
    return [WAYS if variant.multiway and block < depth else 1 for block in range(1, depth + 1)]


def reads(variant: MUDDFormer, depth: int) -> list[Read]:
    """The aggregation after each block, of all outputs up to its own."""
    return [Read(2 * block, tuple(range(0, 2 * block + 1, 2))) for block in range(1, depth + 1)]


def shapes(variant: MUDDFormer, width: int, depth: int) -> list[Shapes]:
    """After block i, W ways over i + 1 outputs: `bias` a [W, i+1], `hidden` W1 [W, i+1, C], `output` W2 [W, i+1, i+1].

    Matrices are [out, in].
    """
    found: list[Shapes] = []
    for block, count in enumerate(ways(variant, depth), 1):
        states = block + 1
        one: dict[str, tuple[int, ...]] = {"bias": (count, states)}
        if variant.coefficients == "dynamic":
            one |= {"hidden": (count, states, width), "output": (count, states, states)}
        found.append(one)
    return found


def values(variant: MUDDFormer, width: int, depth: int, seed: int) -> dict[str, np.ndarray]:
    """a = e_i, W2 = 0, and W1 uniform with the paper's variance 1/C, so that every mix starts as the newest output."""
    connections = []
    for index, one in enumerate(shapes(variant, width, depth)):
        found = {"bias": newest(one["bias"])}
        if variant.coefficients == "dynamic":
            stream = rng.stream_of(f"topology.connections.{index}.hidden")
            found["hidden"] = rng.uniform(seed, stream, one["hidden"], (3 / width) ** 0.5)
            found["output"] = np.zeros(one["output"])
        connections.append(found)
    return named(connections)


def flops_per_token(variant: MUDDFormer, width: int, depth: int) -> float:
    """Forward FLOPs per token: W1, W2 and the norm, and one weighted sum per way."""
    total = 0.0
    for block, count in enumerate(ways(variant, depth), 1):
        states = block + 1
        total += 2.0 * count * states * width
        if variant.coefficients == "dynamic":
            total += 3 * width + 2 * count * states * (width + states)
    return total


def kept(variant: MUDDFormer, depth: int) -> float:
    """Tensors [B, T, C] carried from one sublayer to the next: in the last block X_0 ... X_(L-1) and its residual."""
    return depth + 1


def equals_prenorm_at_step_0(variant: MUDDFormer) -> bool:
    """Every mix starts as its newest output."""
    return True
