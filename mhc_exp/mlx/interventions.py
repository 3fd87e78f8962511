"""Changing the coefficients of trained connections in MLX. Mirrors mhc_exp/torch/interventions.py.

What each change means is said, and done in numpy, in mhc_exp.topology.interventions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import mlx.core as mx

from mhc_exp.mlx.looped import LoopedStreams
from mhc_exp.mlx.model import Transformer
from mhc_exp.mlx.streams import HyperConnection, HyperStreams
from mhc_exp.mlx.wiring import Coefficients
from mhc_exp.topology.interventions import Intervention

Change = Callable[[int, Coefficients], Coefficients]
"""(index of the connection, its coefficients) -> the coefficients that are used."""


@contextlib.contextmanager
def rewired(model: Transformer, change: Change) -> Iterator[None]:
    """Every connection of `model` uses changed coefficients inside the block; not to be nested."""
    connections = _connections(model)

    for index, connection in enumerate(connections):
        connection.coefficients = _changed(index, connection.coefficients, change)
    try:
        yield
    finally:
        for connection in connections:
            del connection.coefficients  # the method of the class is seen again


def _changed(index: int, original: Callable[..., Coefficients], change: Change) -> Callable[..., Coefficients]:
    """`HyperConnection.coefficients` of connection `index`, changed."""

    def coefficients(x: mx.array, known: Coefficients | None) -> Coefficients:
        return change(index, original(x, known))

    return coefficients


def count(model: Transformer) -> int:
    """Connections of `model`."""
    return len(_connections(model))


def _connections(model: Transformer) -> list[HyperConnection]:
    assert isinstance(model.topology, HyperStreams | LoopedStreams)  # who calls has asked families.connection
    return list(model.topology.connections)


def apply(change: Intervention, coefficients: Coefficients) -> Coefficients:
    """Changed coefficients of one connection of the window."""
    read, write, mix = coefficients
    streams = read.shape[0]
    if change.kind == "identity":
        return Coefficients(read, write, None)
    if change.kind == "uniform":
        return Coefficients(read, write, mx.full((streams, streams, 1), 1 / streams))
    if change.kind == "token_mean":
        return Coefficients(read, write, None if mix is None else mix.mean(2, keepdims=True))
    if mix is None:
        mix = mx.eye(streams)[:, :, None]
    if change.kind == "permute":
        order = mx.array(change.order)
        return Coefficients(read, write[order], mix[order])
    kept = (mx.arange(streams) != change.stream).astype(read.dtype)[:, None]
    return Coefficients(read * kept, write * kept, mix * kept[:, :, None] * kept)
