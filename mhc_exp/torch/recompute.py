"""Blocks of connections that keep only what enters them and are computed again for their gradients, in PyTorch.

Mirrors mhc_exp/mlx/recompute.py; how long a block is, and when this is done, is said in mhc_exp.planning.recompute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

Step = TypeVar("Step")


def in_blocks(
    run: Callable[..., tuple[Any, ...]], steps: Sequence[Step], length: int | None, *state: Any
) -> tuple[Any, ...]:
    """The state after `run(steps, *state)`, in blocks of `length` steps (null: at once, and everything is kept).

    A block gets its steps as an argument: a closure over the loop's variables would recompute the last block for all
    of them. Dropout drops the same units again, autocast is as it was. Gradients are the same bits.
    """
    if length is None or not torch.is_grad_enabled():
        return run(steps, *state)
    for first in range(0, len(steps), length):
        state = checkpoint(run, steps[first : first + length], *state, use_reentrant=False)  # type: ignore[assignment]
    return state


def install(topology: nn.Module, length: int | None) -> None:
    """Let a wiring recompute blocks of `length` connections; planning.recompute names those that can."""
    if length is not None:
        if not hasattr(topology, "recompute"):
            raise TypeError(f"{type(topology).__name__} cannot recompute its blocks")
        topology.recompute = length  # type: ignore[assignment]
