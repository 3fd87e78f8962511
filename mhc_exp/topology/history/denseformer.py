"""DenseFormer without a framework: which block outputs are averaged, and with which initial weights."""

from __future__ import annotations

import numpy as np

from mhc_exp.config.history_variants import DenseFormer
from mhc_exp.topology.history.parameters import Shapes, named, newest
from mhc_exp.topology.history.reads import Read


def sources(variant: DenseFormer, depth: int) -> list[range]:
    """Indices j of the outputs X_j (X_0: embedding) averaged after block i = 1 ... L; empty without an average."""
    return [
        range(block % variant.dilation, block + 1, variant.dilation) if block % variant.period == 0 else range(0)
        for block in range(1, depth + 1)
    ]


def reads(variant: DenseFormer, depth: int) -> list[Read]:
    """What follows each block: an average, or its output alone."""
    return [
        Read(2 * block, tuple(2 * index for index in indices) or (2 * block,))
        for block, indices in enumerate(sources(variant, depth), 1)
    ]


def shapes(variant: DenseFormer, width: int, depth: int) -> list[Shapes]:
    """`weight` [number of sources], oldest first."""
    return [{"weight": (len(indices),)} if indices else {} for indices in sources(variant, depth)]


def values(variant: DenseFormer, width: int, depth: int, seed: int) -> dict[str, np.ndarray]:
    """alpha = e_i: every average starts as the newest output."""
    return named([{name: newest(shape) for name, shape in one.items()} for one in shapes(variant, width, depth)])


def flops_per_token(variant: DenseFormer, width: int, depth: int) -> float:
    """Forward FLOPs per token: one weighted sum per average."""
    return sum(2.0 * len(indices) * width for indices in sources(variant, depth))


def kept(variant: DenseFormer, depth: int) -> float:
    """Tensors [B, T, C] carried from one sublayer to the next: the residual, and outputs that a later average needs."""
    averages = sources(variant, depth)

    def needed(block: int) -> set[int]:
        return {j for indices in averages[block:] for j in indices if j <= block}

    return 1 + max(len(needed(block)) for block in range(depth))


def equals_prenorm_at_step_0(variant: DenseFormer) -> bool:
    """Every average starts as its newest output."""
    return True
