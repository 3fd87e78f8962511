"""Modules of any shape that are computed again in the backward pass, on top of mhc_exp.mlx.recompute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlx import nn

from mhc_exp.mlx.recompute import Step, in_blocks

ONLY_ONCE = (nn.Dropout, nn.Dropout2d, nn.Dropout3d, nn.BatchNorm)


def recomputed(call: Callable[..., Any], module: nn.Module, *state: Any) -> Any:
    """`call(*state)`, of which only `state` and the parameters of `module` are kept for the gradients; `call` may use
    no other arrays.
    """
    return in_blocks(lambda steps, *own: (call(*own),), [Step((module,), None)], 1, *state)[0]


def refuse_what_cannot_be_recomputed(branch: Any) -> None:
    """MLX draws other random numbers when it computes again, and knows parameters only of modules."""
    if not isinstance(branch, nn.Module):
        raise ValueError(
            f"checkpoint=True needs a branch that is an mlx.nn.Module, got {type(branch).__name__}: the parameters of "
            "anything else would get no gradients. Wrap it in a module, or type checkpoint=False"
        )
    for part in branch.modules():
        if isinstance(part, ONLY_ONCE):
            raise ValueError(
                f"checkpoint=True cannot recompute the {type(part).__name__} in {type(branch).__name__}: the second "
                "time MLX would draw other numbers, or lose what it counts. Take it out, or type checkpoint=False"
            )
