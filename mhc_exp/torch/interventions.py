"""Changing the coefficients of trained connections in PyTorch. Mirrors mhc_exp/mlx/interventions.py.

What each change means is said, and done in numpy, in mhc_exp.topology.interventions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from mhc_exp.topology.interventions import Intervention
from mhc_exp.torch.kernels.eager import Eager
from mhc_exp.torch.looped import LoopedStreams
from mhc_exp.torch.model import Transformer
from mhc_exp.torch.streams import HyperConnection, HyperStreams
from mhc_exp.torch.wiring import Coefficients

Change = Callable[[int, Coefficients], Coefficients]
"""(index of the connection, its coefficients) -> the coefficients that are used."""


@contextlib.contextmanager
def rewired(model: Transformer, change: Change) -> Iterator[None]:
    """Every connection of `model` uses changed coefficients inside the block; not to be nested."""
    topology = _streams(model)
    before = topology.kernels
    topology.kernels = _Rewired(before, change, list(topology.connections))
    try:
        yield
    finally:
        topology.kernels = before


class _Rewired(Eager):
    """A tier whose coefficients are changed before they are used."""

    def __init__(self, kernels: Eager, change: Change, connections: list[HyperConnection]):
        self.kernels, self.change = kernels, change
        self.index = {connection: index for index, connection in enumerate(connections)}

    def predict(
        self, connection: HyperConnection, x: Tensor, known: Coefficients | None
    ) -> tuple[Coefficients, Tensor]:
        coefficients, x = self.kernels.predict(connection, x, known)
        return self.change(self.index[connection], coefficients), x

    def read(self, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        return self.kernels.read(x, weights)

    def write(self, x: Tensor, y: Tensor, coefficients: Coefficients) -> Tensor:
        return self.kernels.write(x, y, coefficients)


def count(model: Transformer) -> int:
    """Connections of `model`."""
    return len(_streams(model).connections)


def _streams(model: Transformer) -> HyperStreams | LoopedStreams:
    assert isinstance(model.topology, HyperStreams | LoopedStreams)  # who calls has asked families.connection
    return model.topology


def apply(change: Intervention, coefficients: Coefficients) -> Coefficients:
    """Changed coefficients of one connection of the window."""
    read, write, mix = coefficients
    streams = read.shape[0]
    if change.kind == "identity":
        return Coefficients(read, write, None)
    if change.kind == "uniform":
        return Coefficients(read, write, read.new_full((streams, streams, 1), 1 / streams))
    if change.kind == "token_mean":
        return Coefficients(read, write, None if mix is None else mix.mean(2, keepdim=True))
    if mix is None:
        mix = torch.eye(streams, dtype=read.dtype, device=read.device).unsqueeze(2)
    if change.kind == "permute":
        order = list(change.order)
        return Coefficients(read, write[order], mix[order])
    kept = (torch.arange(streams, device=read.device) != change.stream).to(read.dtype).unsqueeze(1)
    return Coefficients(read * kept, write * kept, mix * kept.unsqueeze(2) * kept)
