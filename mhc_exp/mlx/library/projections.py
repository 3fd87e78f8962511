"""Projections between states of different shapes, made before the first call so that an optimizer sees them.

Mirrors torch/library/projections.py. A shape is that of one element of the batch: (C,), (T, C), or for images
(H, W, C).
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
from mlx import nn

from mhc_exp.mlx.library.modules import in_evaluation, named_modules

Shape = Sequence[int]


def projection(before: Shape, after: Shape) -> nn.Module:
    """A linear map of the last axis, or for images a 1 x 1 convolution with the stride that H and W ask for."""
    if len(before) == len(after) and tuple(before[:-1]) == tuple(after[:-1]):
        return nn.Linear(before[-1], after[-1], bias=False)
    if len(before) != 3 or len(after) != 3:
        raise ValueError(f"no projection takes a state {list(before)} to {list(after)}: only the last axis may change")
    sides = list(zip(before[:2], after[:2], strict=True))
    stride = tuple(max(1, round(one / other)) for one, other in sides)
    if any((one - 1) // step + 1 != other for (one, other), step in zip(sides, stride, strict=True)):
        raise ValueError(
            f"no stride takes a state {list(before)} to {list(after)}; keep H and W, or divide them evenly"
        )
    return nn.Conv2d(before[2], after[2], 1, stride, bias=False)


def shapes_along(
    modules: Sequence[nn.Module], declared: Sequence[Shape] | None, example: mx.array | None
) -> list[Shape] | None:
    """Shapes of the input and of every module's output: declared, traced, or read off; None if all are the same."""
    if declared is not None:
        if len(declared) != len(modules) + 1:
            raise ValueError(
                f"shapes are those of the input and of {len(modules)} outputs, {len(modules) + 1} in all; "
                f"got {len(declared)}"
            )
        return [tuple(shape) for shape in declared]
    found = traced(modules, example) if example is not None else read_off(modules)
    return found if found and len(set(found)) > 1 else None


def traced(modules: Sequence[nn.Module], example: mx.array) -> list[Shape]:
    """By calling the modules once, in evaluation mode; nothing is computed, since MLX knows shapes beforehand."""
    shapes: list[Shape] = [tuple(example.shape[1:])]
    with in_evaluation(*modules):
        for module in modules:
            output = module(example)
            example = output[0] if isinstance(output, tuple) else output
            shapes.append(tuple(example.shape[1:]))
    return shapes


def read_off(modules: Sequence[nn.Module]) -> list[Shape] | None:
    """From the sizes that Linear modules declare; None where none does, or where images would need more than that."""
    layers = [part for module in modules for _, part in named_modules(module)]
    linear = [part for part in layers if isinstance(part, nn.Linear)]
    if not linear or any(isinstance(part, nn.Conv2d) for part in layers):
        return None
    shapes: list[Shape] = [(linear[0].weight.shape[1],)]
    for module in modules:
        last = [part for _, part in named_modules(module) if isinstance(part, nn.Linear)]
        simple = isinstance(module, nn.Linear | nn.Sequential)
        shapes.append((last[-1].weight.shape[0],) if last and simple else shapes[-1])
    return shapes
