"""Rules that span the keys of wirings with a history."""

from __future__ import annotations

from collections.abc import Iterator

from mhc_exp.config.build import Problem
from mhc_exp.config.history_variants import AttnRes, DenseFormer, History, ValueResidual
from mhc_exp.config.schema import Config


def history_problems(config: Config) -> Iterator[Problem]:
    """What is wrong with a wiring that remembers earlier outputs; nothing for the others."""
    variant = config.variant
    if isinstance(variant, History):
        yield from start_problems(variant)
    elif isinstance(variant, DenseFormer):
        yield from _reach(variant, config.depth)
    elif isinstance(variant, AttnRes) and config.model.width % variant.heads:
        fits = [heads for heads in range(1, variant.heads) if config.model.width % heads == 0]
        yield Problem(
            "variant.heads",
            f"must divide model.width={config.model.width}, got {variant.heads}; type variant.heads={fits[-1]}",
        )
    elif isinstance(variant, ValueResidual) and variant.start > config.depth:
        remedy = f"variant.start={config.depth}" if config.depth > 1 else "depth=2"
        yield Problem(
            "variant.start",
            f"no block would mix values: it starts at block {variant.start} of depth={config.depth}; type {remedy}",
        )


def start_problems(variant: History) -> Iterator[Problem]:
    """What is wrong with the initial weight of the newest state."""
    floor = variant.floor if variant.constraint == "identity_preserving" else 0.0
    if not floor < variant.newest < 1:
        above = f"above variant.floor={floor:g}" if floor else "above 0"
        yield Problem(
            "variant.newest",
            f"a softmax starts strictly inside the simplex: must be {above} and below 1, got {variant.newest:g}; "
            f"type variant.newest=0.98{' variant.floor=0.1' if floor >= 0.98 else ''}",
        )


def _reach(variant: DenseFormer, depth: int) -> Iterator[Problem]:
    for key, value in (("dilation", variant.dilation), ("period", variant.period)):
        if value > depth:
            yield Problem(
                f"variant.{key}",
                f"nothing would be averaged: must be at most depth={depth}, got {value}; type variant.{key}={depth}",
            )
