"""A training step as one CUDA graph: the host launches it at once, where a small model's step is many short kernels.

Everything a captured step reads lies where it lay when it was captured, so batches and learning rates are copied to
fixed addresses. Not run on a GPU so far (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mhc_exp.data.task import Batch

WARM_UP = 3
"""Steps before the capture, as PyTorch asks for: they choose algorithms, tune kernels and make workspaces."""


class Inputs(NamedTuple):
    """What differs from step to step, for A microbatches of b sequences."""

    tokens: Tensor
    """[A, b, T] int64"""
    targets: Tensor
    """[A, b, T] int64"""
    weights: Tensor
    """[A, b, T] float32: 1 / the supervised tokens of the whole batch where the loss is taken, else 0."""
    lr: Tensor
    """[]"""


def inputs(batch: Batch, accumulation: int, lr: float) -> Inputs:
    """On the host."""
    weights = batch.mask.astype(np.float32) / np.float32(batch.mask.sum())
    parts = (batch.inputs.astype(np.int64), batch.targets.astype(np.int64), weights)
    tokens, targets, weights = (torch.from_numpy(part.reshape(accumulation, -1, part.shape[-1])) for part in parts)
    return Inputs(tokens, targets, weights, torch.tensor(lr, dtype=torch.float32))


class StepGraph:
    """`run`, a whole step that reads its Inputs and returns numbers, recorded once and replayed."""

    def __init__(self, run: Callable[[Inputs], Tensor], example: Inputs, state: Sequence[Tensor]):
        """Captures `run` on the device of `state`: all tensors that it changes, which are afterwards what they were."""
        self.inputs = Inputs(*(tensor.to(state[0].device) for tensor in example))
        before = [tensor.detach().clone() for tensor in state]
        self.replay, self.numbers = record(lambda: run(self.inputs))
        with torch.no_grad():
            for tensor, value in zip(state, before, strict=True):
                tensor.copy_(value)

    def __call__(self, given: Inputs) -> Tensor:
        """Enqueue a step and return its numbers."""
        for name, own, new in zip(Inputs._fields, self.inputs, given, strict=True):
            if own.shape != new.shape:
                raise ValueError(
                    f"a batch with {name} {list(new.shape)} after one with {list(own.shape)}: a CUDA graph has fixed "
                    "shapes; type backend.graphs=false"
                )
            own.copy_(new.pin_memory() if own.is_cuda else new, non_blocking=True)
        self.replay()
        return self.numbers.clone()


def record(run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """What replays `run`, and its result, which each replay overwrites."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    return graph.replay, result
