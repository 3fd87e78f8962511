"""The modules of a model in order, and which of their parameters are a connection's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from mhc_exp.mlx.library.connection import Connection
from mhc_exp.mlx.library.hyper import ExpandStreams, ReduceStreams

Model = TypeVar("Model", bound=nn.Module)
OWN = (Connection, ExpandStreams, ReduceStreams)


def named_modules(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """(dotted name, module) of a model and everything in it, in order; what occurs twice comes twice."""
    yield prefix, model
    for name, child in tree_flatten(model.children(), is_leaf=nn.Module.is_module):
        if isinstance(child, nn.Module):
            yield from named_modules(child, f"{prefix}.{name}" if prefix else name)


def connections(model: nn.Module) -> list[Connection]:
    """All stream connections of a model, in order; injected or built."""
    found = [module for _, module in named_modules(model) if isinstance(module, Connection)]
    return list({id(one): one for one in found}.values())


def connection_parameters(model: nn.Module) -> dict[str, mx.array]:
    """Parameters of all connections, expansions and read-outs, by dotted name."""
    found: dict[str, mx.array] = {}
    for place, module in named_modules(model):
        if isinstance(module, OWN):
            own = cast(list[tuple[str, mx.array]], tree_flatten(module.parameters()))
            found |= {f"{place}.{name}" if place else name: value for name, value in own}
    return found


def connection_filter(model: nn.Module) -> Callable[[str, mx.array], bool]:
    """A filter for mlx.optimizers.MultiOptimizer that gives the connections to an optimizer of their own.

    That one should have no weight decay, which would pull H_pre, H_post and H_res towards values that mean nothing:
    `MultiOptimizer([AdamW(3e-3, weight_decay=0.0), AdamW(3e-4, weight_decay=0.1)], [connection_filter(model)])`.
    """
    own = frozenset(connection_parameters(model))
    return lambda name, _: name in own


def freeze_body(model: Model) -> Model:
    """Let only the connections learn; `unfreeze()` on the model undoes it."""
    model.freeze()
    for _, module in named_modules(model):
        if isinstance(module, OWN):
            module.unfreeze()
    return model


@contextmanager
def in_evaluation(*modules: nn.Module) -> Iterator[None]:
    """The modules in evaluation mode, and afterwards in the modes they were in."""
    modes = [(part, part.training) for module in modules for _, part in named_modules(module)]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for part, training in modes:
            part._training = training
