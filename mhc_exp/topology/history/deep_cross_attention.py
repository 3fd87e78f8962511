"""DeepCrossAttention without a framework: what each read sees, shapes and initial values."""

from __future__ import annotations

import numpy as np

from mhc_exp.config.history_variants import DeepCrossAttention
from mhc_exp.topology.history.parameters import Shapes, constants
from mhc_exp.topology.history.reads import Read

WAYS = 3
"""Query, key and value, in this order; the query's read is also the residual of the block."""


def sources(variant: DeepCrossAttention, depth: int) -> list[int]:
    """Number of sources of the L + 1 reads: before each block, and before the head."""
    return [block + 1 if variant.last is None else min(block + 1, variant.last + 2) for block in range(depth + 1)]


def reads(variant: DeepCrossAttention, depth: int) -> list[Read]:
    """The reads before each block and before the head: the embedding, then the newest outputs (the first of them may be
    a sum of all that lie between).
    """
    return [
        Read(2 * block, (0, *(2 * newest for newest in range(block - count + 2, block + 1))))
        for block, count in enumerate(sources(variant, depth))
    ]


def ways(depth: int) -> list[int]:
    """Reads before each block, and the one before the head."""
    return [WAYS] * depth + [1]


def shapes(variant: DeepCrossAttention, width: int, depth: int) -> list[Shapes]:
    """`bias` b [W, sources, C]; GRN-v3 adds `weight` w [W, C]."""
    found: list[Shapes] = []
    for count, states in zip(ways(depth), sources(variant, depth), strict=True):
        dynamic = {"weight": (count, width)} if variant.coefficients == "dynamic" else {}
        found.append({"bias": (count, states, width), **dynamic})
    return found


def values(variant: DeepCrossAttention, width: int, depth: int, seed: int) -> dict[str, np.ndarray]:
    """b = 1, w = 0: every read starts as the sum of its sources, the residual state."""
    return constants(shapes(variant, width, depth), bias=1.0, weight=0.0)


def flops_per_token(variant: DeepCrossAttention, width: int, depth: int) -> float:
    """Forward FLOPs per token: a weighted sum per read; GRN-v3 adds the scores and their addition to b."""
    per_source = 5.0 if variant.coefficients == "dynamic" else 2.0
    return sum(
        per_source * count * states * width for count, states in zip(ways(depth), sources(variant, depth), strict=True)
    )


def kept(variant: DeepCrossAttention, depth: int) -> float:
    """Tensors [B, T, C] that the wiring carries from one block to the next."""
    return max(sources(variant, depth))


def equals_prenorm_at_step_0(variant: DeepCrossAttention) -> bool:
    """Embedding and block outputs sum to the residual state."""
    return True
