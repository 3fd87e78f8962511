"""Attention Residuals without a framework: what each read attends to."""

from __future__ import annotations

import numpy as np

from mhc_exp.config.history_variants import AttnRes
from mhc_exp.topology.history.parameters import Shapes, constants
from mhc_exp.topology.history.reads import Read


def block_size(variant: AttnRes, depth: int) -> int:
    """Sublayers whose outputs are summed into one source; 1 without blocks, and if there are more blocks than them."""
    return 1 if variant.blocks is None else -(-2 * depth // variant.blocks)


def sources(variant: AttnRes, depth: int) -> list[int]:
    """Number of sources of the 2L + 1 reads: embedding, sums of finished blocks, sum of the current one if begun."""
    size, sublayers = block_size(variant, depth), 2 * depth
    return [1 + -(-index // size) for index in range(sublayers + 1)]


def reads(variant: AttnRes, depth: int) -> list[Read]:
    """The read of every sublayer and of the head; a finished block counts as made at its end, the current one now."""
    size = block_size(variant, depth)
    return [
        Read(place, tuple(min(size * index, place) for index in range(count)))
        for place, count in enumerate(sources(variant, depth))
    ]


def shapes(variant: AttnRes, width: int, depth: int) -> list[Shapes]:
    """`query` w [C] and `key_norm` [C], the RMSNorm's weight; none where a single source gets all weight anyway."""
    return [{"query": (width,), "key_norm": (width,)} if count > 1 else {} for count in sources(variant, depth)]


def values(variant: AttnRes, width: int, depth: int, seed: int) -> dict[str, np.ndarray]:
    """Zero queries: every read starts as the mean of its sources."""
    return constants(shapes(variant, width, depth), query=0.0, key_norm=1.0)


def flops_per_token(variant: AttnRes, width: int, depth: int) -> float:
    """Forward FLOPs per token: the norm of every source once (a partial sum is a new one), scores and sums."""
    reads = sources(variant, depth)
    return 3.0 * (2 * depth + 1) * width + sum(4.0 * count * width for count in reads if count > 1)


def kept(variant: AttnRes, depth: int) -> float:
    """Tensors [B, T, C] that the wiring carries from one sublayer to the next."""
    return max(sources(variant, depth))


def equals_prenorm_at_step_0(variant: AttnRes) -> bool:
    """Sources sum to the residual state, so their mean is that state divided by their number, which every input norm
    and the final norm remove.
    """
    return True
