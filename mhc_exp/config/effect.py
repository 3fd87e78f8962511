"""Keys of a wiring that have no effect under its other choices: refused where a person typed them, and in no hash."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from mhc_exp.config.build import Problem
from mhc_exp.config.history_variants import History
from mhc_exp.config.schema import Config
from mhc_exp.config.variants import Looped, Mix, Residual, Segments, Sparse, Streams, Variant
from mhc_exp.topology.charts import CHARTS

SINKHORN = ("solver", "iterations", "order", "start")
"""Keys of `mix` that only Sinkhorn-Knopp reads."""
SYMMETRIC = ("identity", "kronecker", "sigmoid_diagonal")
"""Charts whose matrix is its own transpose."""


class Idle(NamedTuple):
    """Why a key has no effect."""

    because: str
    """The choice under which it has none, below `variant`."""
    needs: str
    """A choice under which it has one."""


def idle(variant: Variant) -> dict[str, Idle]:
    """Keys below `variant`, dotted, that change neither a parameter nor a number of this wiring."""
    return dict(_idle(variant))


def canonical(variant: Variant) -> dict[str, Any]:
    """`variant` as a mapping in which idle keys have their `NEUTRAL` value: what a hash is made of."""
    mapping = dataclasses.asdict(variant)
    for key in idle(variant).keys() & NEUTRAL.keys():
        *groups, leaf = key.split(".")
        functools.reduce(dict.__getitem__, groups, mapping)[leaf] = NEUTRAL[key]
    return mapping


def idle_problems(config: Config, typed: Collection[str]) -> Iterator[Problem]:
    """Keys among `typed` (dotted, of the whole configuration) that have no effect on the wiring of `config`."""
    for key, reason in idle(config.variant).items():
        if (path := f"variant.{key}") in typed:
            yield Problem(
                path,
                f"has no effect with variant.{reason.because}; leave it out, or type variant.{reason.needs}",
            )


NEUTRAL: dict[str, Any] = {
    "mix.solver": "iterations",
    "mix.iterations": 20,
    "mix.order": "rows_last",
    "mix.start": "exp",
    "mix.eps": 0.0,
    "mix.expansion": 2,
    "mix.budget": None,
    "mix.scale": "learned",
    "alpha": 0.01,
    "router_std": 0.02,
    "clamp": True,
    "gate.per": "sublayer",
    "gate.init": "one",
    "laurel.weights": "softmax",
    "laurel.rank": 4,
    "constraint": "simplex",
    "floor": 0.1,
    "iterations": 20,
    "newest": 0.98,
}
"""The value that stands in a hash for any value of an idle key: that of every file in conf/variant, so that the names
of their runs do not depend on this table. Those files differ in `mix.apply`, `norm`, `squash`, `temperature`, `scale`:
an idle one of these stays as it is.
"""


def _idle(variant: Variant) -> Iterator[tuple[str, Idle]]:
    match variant:
        case Residual():
            yield from _residual(variant)
        case Streams() | Looped():
            dynamic = variant.coefficients == "dynamic"
            yield from _mix(variant.mix, dynamic)
            if not dynamic:
                head = isinstance(variant, Streams) and variant.reduce == "head"
                yield from _projected(("norm", "squash") if head else ("norm", "squash", "alpha"))
        case Sparse():
            yield from _mix(variant.mix, dynamic=True)
            if variant.fixed == variant.active:
                routed = f"fixed={variant.active - 1}" if variant.active > 1 else "active=2"
                yield "router_std", Idle(f"fixed={variant.fixed}", routed)
            yield from _clamp(variant.mix)
        case Segments(coefficients="static"):
            yield from _projected(("norm", "squash", "temperature", "scale", "alpha"))
        case History():
            yield from _history(variant)


def _projected(keys: tuple[str, ...]) -> Iterator[tuple[str, Idle]]:
    """Keys of the dynamic part."""
    for key in keys:
        yield key, Idle("coefficients=static", "coefficients=dynamic")


def _mix(mix: Mix, dynamic: bool) -> Iterator[tuple[str, Idle]]:
    chart = f"mix.chart={mix.chart}"
    if mix.chart != "sinkhorn":
        for key in SINKHORN:
            yield f"mix.{key}", Idle(chart, "mix.chart=sinkhorn")
    if mix.chart not in ("sinkhorn", "quaternion"):
        yield "mix.eps", Idle(chart, "mix.chart=sinkhorn")
    if mix.chart != "orthostochastic":
        yield "mix.expansion", Idle(chart, "mix.chart=orthostochastic")
    if mix.chart in SYMMETRIC:
        yield "mix.apply", Idle(chart, "mix.chart=sinkhorn")
    if mix.chart == "identity":
        for key in ("budget", "scale"):
            yield f"mix.{key}", Idle(chart, "mix.chart=sinkhorn")
    elif not dynamic:
        yield "mix.scale", Idle("coefficients=static", "coefficients=dynamic")


def _clamp(mix: Mix) -> Iterator[tuple[str, Idle]]:
    """Rows that never sum to more than one need no clamp."""
    truncated = mix.chart == "sinkhorn" and mix.solver == "iterations"
    exact = mix.order.removesuffix("_last") if truncated else CHARTS[mix.chart].stochastic
    if mix.chart == "sigmoid_diagonal" or exact in ("both", "rows" if mix.apply == "plain" else "columns"):
        if not truncated:
            yield "clamp", Idle(f"mix.chart={mix.chart}", "mix.chart=exp")
        else:
            other = "columns_last" if mix.apply == "plain" else "rows_last"
            yield "clamp", Idle(f"mix.order={mix.order}", f"mix.order={other}")


def _residual(variant: Residual) -> Iterator[tuple[str, Idle]]:
    if variant.gate.shape == "none":
        for key in ("per", "init"):
            yield f"gate.{key}", Idle("gate.shape=none", "gate.shape=scalar")
    terms = variant.laurel.terms
    if terms not in ("rw", "rw_lr"):
        yield "laurel.weights", Idle(f"laurel.terms={terms}", "laurel.terms=rw")
    if terms not in ("lr", "rw_lr"):
        yield "laurel.rank", Idle(f"laurel.terms={terms}", "laurel.terms=lr")


def _history(variant: History) -> Iterator[tuple[str, Idle]]:
    one = {key: Idle("window=1", "window=4") for key in ("constraint", "newest") if variant.window == 1}
    yield from one.items()
    for key, constraint in (("floor", "identity_preserving"), ("iterations", "doubly_stochastic")):
        if one or variant.constraint != constraint:
            yield key, one.get("newest") or Idle(f"constraint={variant.constraint}", f"constraint={constraint}")
