"""Blocks of connections that keep only what enters them and are computed again for their gradients, in MLX.

Mirrors mhc_exp/torch/recompute.py; how long a block is, and when this is done, is said in mhc_exp.planning.recompute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
from mlx import nn


class Step(NamedTuple):
    """One connection of a block."""

    modules: tuple[Any, ...]
    """What has parameters: the connection, then the sublayers that it wraps."""
    call: Any
    """What the wiring does with them: a branch, an index."""
    known: Any = None
    """Arrays that come from outside of the block, or none."""


def in_blocks(
    run: Callable[..., tuple[Any, ...]], steps: Sequence[Step], length: int | None, *state: Any
) -> tuple[Any, ...]:
    """The state after `run(steps, *state)`, in blocks of `length` steps (null: at once, and everything is kept).

    mx.checkpoint takes whatever is not an argument for a constant, so a block gets the parameters of its modules and
    its known arrays as arguments. Random numbers would be others the second time: planning.recompute refuses dropout.
    """
    if length is None:
        return run(steps, *state)
    for first in range(0, len(steps), length):
        state = _again(run, steps[first : first + length], state)
    return state


def _again(run: Callable[..., tuple[Any, ...]], steps: Sequence[Step], state: tuple[Any, ...]) -> tuple[Any, ...]:
    modules = [module for step in steps for module in step.modules]
    parameters = [module.parameters() for module in modules]

    def block(inner: list[Any], known: list[Any], *state: Any) -> tuple[Any, ...]:
        _put(modules, inner)
        after = run([step._replace(known=own) for step, own in zip(steps, known, strict=True)], *state)
        _put(modules, parameters)
        return after

    return mx.checkpoint(block)(parameters, [step.known for step in steps], *state)


def _put(modules: list[nn.Module], parameters: list[Any]) -> None:
    for module, own in zip(modules, parameters, strict=True):
        module.update(own)


def install(topology: nn.Module, length: int | None) -> None:
    """Let a wiring recompute blocks of `length` connections; planning.recompute names those that can."""
    if length is not None:
        if not hasattr(topology, "_recompute"):
            raise TypeError(f"{type(topology).__name__} cannot recompute its blocks")
        topology._recompute = length
