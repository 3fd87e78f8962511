"""Learned mixing of the last H states without a framework (family `history`)."""

from __future__ import annotations

import numpy as np

from mhc_exp.config.history_variants import History
from mhc_exp.config.variants import Mix
from mhc_exp.topology.history.parameters import Shapes, named
from mhc_exp.topology.history.reads import Read


def states(variant: History, depth: int) -> list[int]:
    """How many states each of the 2L connections mixes: the history grows to H and stays there."""
    return [min(variant.window, index + 1) for index in range(2 * depth)]


def reads(variant: History, depth: int) -> list[Read]:
    """The sums that make the next state, newest state first. The memory of a doubly stochastic matrix holds mixes: each
    counts as made when its place in the memory says.
    """
    return [
        Read(place, tuple(place - age for age in range(count)), ahead=1)
        for place, count in enumerate(states(variant, depth))
    ]


def shapes(variant: History, width: int, depth: int) -> list[Shapes]:
    """`logits` [h], or [h, h] if doubly stochastic, on h states, newest first; a single state keeps its weight 1."""
    axes = 2 if variant.constraint == "doubly_stochastic" else 1
    return [{"logits": (count,) * axes} if count > 1 else {} for count in states(variant, depth)]


def sinkhorn(variant: History) -> Mix:
    """The chart of the doubly stochastic matrix: row sums, hence the weights of every state made, are exact."""
    return Mix(
        chart="sinkhorn",
        solver="iterations",
        iterations=variant.iterations,
        order="rows_last",
        start="exp",
        eps=0.0,
        expansion=1,
        budget=None,
        scale="learned",
        apply="plain",
    )


def values(variant: History, width: int, depth: int, seed: int) -> dict[str, np.ndarray]:
    """Logits for which the newest state has the weight `newest` and the others share the rest."""
    return named(
        [{name: _logits(variant, shape) for name, shape in one.items()} for one in shapes(variant, width, depth)]
    )


def _logits(variant: History, shape: tuple[int, ...]) -> np.ndarray:
    floor = variant.floor if variant.constraint == "identity_preserving" else 0.0
    share = (variant.newest - floor) / (1 - floor)
    rows = np.full((shape[-1], shape[-1]), np.log((1 - share) / (shape[-1] - 1)))
    np.fill_diagonal(rows, np.log(share))  # doubly stochastic as it stands: Sinkhorn leaves it alone
    return rows if len(shape) == 2 else rows[0]


def flops_per_token(variant: History, width: int, depth: int) -> float:
    """Forward FLOPs per token: one weighted sum per state made."""
    square = variant.constraint == "doubly_stochastic"
    return sum(2.0 * count * (count if square else 1) * width for count in states(variant, depth) if count > 1)


def kept(variant: History, depth: int) -> float:
    """Tensors [B, T, C] that the wiring carries from one sublayer to the next."""
    return min(variant.window, 2 * depth)


def equals_prenorm_at_step_0(variant: History) -> bool:
    """Only a window of one state is the residual: a softmax never puts all weight on the newest."""
    return variant.window == 1
