"""Blocks of connections that keep only what enters them and are computed again for their gradients, in PyTorch.

Mirrors mhc_exp/mlx/recompute.py; how long a block is, and when this is done, is said in mhc_exp.planning.recompute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
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


class Once:
    """A branch that is computed in the forward pass alone and keeps its activations as if nothing were recomputed.

    When its block is computed again it answers with what it gave, so that only the connections around it are computed
    (arXiv:2512.24880, section 4.3). One per forward pass.
    """

    def __init__(self, branch: Callable[[Tensor], Tensor]):
        self.branch = branch
        self.output: Tensor | None = None

    def __call__(self, u: Tensor) -> Tensor:
        if self.output is not None:
            return self.output.detach().requires_grad_(self.output.requires_grad)
        with saved_tensors_hooks(_as_it_is, _as_it_is):  # in place of the block's, which would discard them
            made = self.branch(u)
        self.output = made.detach().requires_grad_(made.requires_grad)
        return made


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


class Policy(NamedTuple):
    """How a wiring recomputes."""

    length: int
    """Connections per block."""
    connections: bool = False
    """Whether the sublayers keep what they need and only the connections are computed again."""


def install(topology: nn.Module, policy: Policy | None) -> None:
    """Let a wiring recompute its blocks; planning.recompute names those that can."""
    if policy is not None:
        if not hasattr(topology, "recompute"):
            raise TypeError(f"{type(topology).__name__} cannot recompute its blocks")
        topology.recompute = policy  # type: ignore[assignment]
