"""Running somebody's model once, without leaving a trace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def evaluated(model: nn.Module, example: Any) -> Any:
    """What the model returns in evaluation mode for a tensor, a tuple of arguments or a dict of keywords."""
    example = (example,) if isinstance(example, Tensor) else example
    with _in_evaluation(model):
        return model(**example) if isinstance(example, Mapping) else model(*example)


@contextmanager
def _in_evaluation(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, and afterwards in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training
