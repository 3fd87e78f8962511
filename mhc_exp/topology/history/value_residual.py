"""Value residual without a framework: two weights per block, or none."""

from __future__ import annotations

import numpy as np

from mhc_exp.config.history_variants import ValueResidual
from mhc_exp.topology.history.parameters import Shapes, named
from mhc_exp.topology.history.reads import Read


def mixes(variant: ValueResidual, depth: int) -> list[bool]:
    """Whether each of the L blocks mixes the first block's values into its own."""
    return [block >= variant.start for block in range(1, depth + 1)]


def reads(variant: ValueResidual, depth: int) -> list[Read]:
    """The values of each block, its own last; values count as made where their attention begins."""
    return [
        Read(2 * block, (0, 2 * block) if mixed else (2 * block,)) for block, mixed in enumerate(mixes(variant, depth))
    ]


def shapes(variant: ValueResidual, width: int, depth: int) -> list[Shapes]:
    """`weight` [2]: lambda_1 of the first block's values, lambda_2 of the block's own."""
    return [{"weight": (2,)} if mixed and variant.learnable else {} for mixed in mixes(variant, depth)]


def values(variant: ValueResidual, width: int, depth: int, seed: int) -> dict[str, np.ndarray]:
    """The same two weights in every block."""
    start = np.array([variant.first, variant.own])
    return named([dict.fromkeys(one, start) for one in shapes(variant, width, depth)])


def flops_per_token(variant: ValueResidual, width: int, depth: int) -> float:
    """Forward FLOPs per token: a weighted sum of two values per block."""
    return 4.0 * width * sum(mixes(variant, depth))


def kept(variant: ValueResidual, depth: int) -> float:
    """Tensors [B, T, C] that the wiring carries from one sublayer to the next: the residual and the first values."""
    return 2


def equals_prenorm_at_step_0(variant: ValueResidual) -> bool:
    """Only without the first block's values, which is where a learnable weight may begin."""
    return variant.first == 0 and variant.own == 1
