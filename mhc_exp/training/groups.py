"""Which parameters get which learning rate and weight decay; decided once for both backends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mhc_exp.body.parameters import is_connection
from mhc_exp.config.schema import Optimizer


class Group(NamedTuple):
    """Parameters that share a rule."""

    lr_multiplier: float
    weight_decay: float
    names: tuple[str, ...]


def groups(shapes: Mapping[str, tuple[int, ...]], optimizer: Optimizer) -> list[Group]:
    """Body parameters that decay, body parameters that do not, and connections (no decay unless asked for)."""
    collected: dict[tuple[float, float], list[str]] = {}
    for name, shape in shapes.items():
        if is_connection(name):
            decays, multiplier = optimizer.decay_connections, optimizer.connection_lr_multiplier
        else:
            decays, multiplier = optimizer.decay == "all" or len(shape) >= 2, 1.0
        key = (multiplier, optimizer.weight_decay if decays else 0.0)
        collected.setdefault(key, []).append(name)
    return [Group(multiplier, decay, tuple(names)) for (multiplier, decay), names in collected.items()]
