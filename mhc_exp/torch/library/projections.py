"""Projections between states of different shapes, made before the first call so that an optimizer sees them.

A shape is that of one element of the batch: (C,), (T, C), or (C, H, W) for images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Shape = Sequence[int]


def projection(before: Shape, after: Shape) -> nn.Module:
    """A linear map of the last axis, or for images a 1 x 1 convolution with the stride that H and W ask for."""
    if len(before) == len(after) == 3 and tuple(before[1:]) != tuple(after[1:]):
        stride = tuple(max(1, round(one / other)) for one, other in zip(before[1:], after[1:], strict=True))
        if any((one - 1) // step + 1 != other for one, other, step in zip(before[1:], after[1:], stride, strict=True)):
            raise ValueError(
                f"no stride takes a state {list(before)} to {list(after)}; keep H and W, or divide them evenly"
            )
        return nn.Conv2d(before[0], after[0], 1, stride, bias=False)  # type: ignore[arg-type]
    if len(before) == len(after) == 3 and before[0] != after[0]:
        return nn.Conv2d(before[0], after[0], 1, bias=False)
    if len(before) != len(after) or tuple(before[:-1]) != tuple(after[:-1]):
        raise ValueError(f"no projection takes a state {list(before)} to {list(after)}: only the last axis may change")
    return nn.Linear(before[-1], after[-1], bias=False)


def shapes_along(
    modules: Sequence[nn.Module], declared: Sequence[Shape] | None, example: Tensor | None
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


@torch.no_grad()
def traced(modules: Sequence[nn.Module], example: Tensor) -> list[Shape]:
    """By running the modules once, in evaluation mode."""
    shapes: list[Shape] = [tuple(example.shape[1:])]
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for module in modules:
            output = module.eval()(example)
            example = output[0] if isinstance(output, tuple) else output
            shapes.append(tuple(example.shape[1:]))
    finally:
        for part, training in modes:
            part.training = training
    return shapes


def read_off(modules: Sequence[nn.Module]) -> list[Shape] | None:
    """From the sizes that Linear modules declare; None where none does, or where images would need more than that."""
    layers = [part for module in modules for part in module.modules()]
    linear = [part for part in layers if isinstance(part, nn.Linear)]
    if not linear or any(isinstance(part, nn.Conv2d) for part in layers):
        return None
    shapes: list[Shape] = [(linear[0].in_features,)]
    for module in modules:
        last = [part for part in module.modules() if isinstance(part, nn.Linear)]
        simple = isinstance(module, nn.Linear | nn.Sequential)
        shapes.append((last[-1].out_features,) if last and simple else shapes[-1])
    return shapes
