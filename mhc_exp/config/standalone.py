"""Variants of connections that stand alone in somebody's model, by name and keys: for the library of either backend."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mhc_exp.config import named
from mhc_exp.config.build import ConfigError, Problem
from mhc_exp.config.history_variants import History
from mhc_exp.config.segment_rules import segment_problems
from mhc_exp.config.variant_rules import sparse_connection_problems
from mhc_exp.config.variants import Mix, Segments, Sparse, Streams, Variant
from mhc_exp.config.vocabulary import options
from mhc_exp.topology.families import state_shape

Standalone = Streams | Segments | Sparse
"""Variants whose connections need nothing but the state: each reads, and writes, its own."""


def connection_variant(
    variant: str | Variant, streams: int | None, layers: int | None, keys: Mapping[str, Any]
) -> Standalone:
    """The variant by name and keys, with its demands on a lone connection met. Raises ConfigError."""
    family = named.option(variant)["family"] if isinstance(variant, str) else variant.family
    if family == "streams":
        return stream_variant(variant, streams, layers, keys)
    if family == "segments" and streams is not None:
        name = variant if isinstance(variant, str) else variant.name
        said = f"{name} has segments of the width instead; type segments={streams} with fractions=<parts of the width>"
        raise ConfigError([Problem("streams", said)])
    found = named.variant(variant, dict(keys) | ({} if streams is None else {"streams": streams}))
    if not isinstance(found, Standalone):
        raise ConfigError(
            [Problem("variant", f"{found.name} {_why_not(found)}; type one of {', '.join(standalone())}")]
        )
    if isinstance(found, Sparse):
        if problems := list(sparse_connection_problems(found)):
            raise ConfigError(problems)
        _check_budget(found, layers)
    return found


def standalone() -> list[str]:
    """Names of conf/variant whose connections stand alone."""
    files = {name: named.option(name) for name in options("variant")}
    families = ("streams", "segments", "sparse")
    return [name for name, one in files.items() if one["family"] in families and one.get("read_from") != "previous"]


def _why_not(variant: Variant) -> str:
    """Why a wiring has no connections that stand alone."""
    if isinstance(variant, History):
        return "mixes the last states, which HistoryConnection, MHCSequential and inject_mhc do"
    if variant.family == "gated":
        return "(family gated) reads in place of the norm that a branch begins with"
    return f"(family {variant.family}) has no connections that stand alone"


def check_word(name: str, given: str, allowed: tuple[str, ...]) -> None:
    """Raises ValueError for an argument that is none of the words it may be."""
    if given not in allowed:
        raise ValueError(f"{name}={given!r} is not one of {', '.join(map(repr, allowed))}")


def check_width(variant: Variant, width: int) -> None:
    """Raises ConfigError if the variant cannot divide this width."""
    if isinstance(variant, Segments) and (problems := list(segment_problems(variant, width))):
        raise ConfigError(problems)


def stream_variant(variant: str | Variant, streams: int | None, layers: int | None, keys: Mapping[str, Any]) -> Streams:
    """The same for variants of family `streams` alone."""
    spec = named.streams(variant, dict(keys) | ({} if streams is None else {"streams": streams}))
    _check_budget(spec, layers)
    if spec.scale_output_init:
        raise ConfigError(
            [
                Problem(
                    "variant.scale_output_init",
                    "is about initial values of a body that is not ours; type scale_output_init=False, and "
                    f"multiply your output projections by {spec.streams}**0.5",
                )
            ]
        )
    return spec


def _check_budget(spec: Streams | Sparse, layers: int | None) -> None:
    if spec.mix.budget is not None and layers is None:
        raise ConfigError(
            [Problem("layers", f"{spec.name} shares a mixing budget among all connections; type layers=<their number>")]
        )


def injected_variant(variant: str | Variant, streams: int | None, keys: Mapping[str, Any]) -> Standalone:
    """The variant with a start and an end that leave the model's function as it is, where it may and says nothing else:
    `reduce="mean"` and `init="preserving"`; of segments, `reduce_norm="none"`.
    """
    chosen = {key.partition(".")[0] for key in keys}
    counted = 1  # stands for their number, which `inject` finds out before it makes them
    spec = connection_variant(variant, streams, counted, keys)
    if not isinstance(variant, str):
        return spec
    if isinstance(spec, Segments):
        own = {} if "reduce_norm" in chosen else {"reduce_norm": "none"}
        return connection_variant(spec, None, counted, own)
    if "reduce" not in chosen and spec.reduce == "sum":
        spec = connection_variant(spec, None, counted, {"reduce": "mean"})
    if "init" not in chosen and isinstance(spec, Streams):
        try:
            spec = named.streams(spec, {"init": "preserving"} if spec.streams > 1 else {})
        except ConfigError:  # gates that are not sigmoids: these keep the initial values of their paper
            return spec
    return spec


def state_problem(variant: Variant, width: int, shape: Sequence[int]) -> str | None:
    """What is wrong with streams of this shape as the state of a connection of width C."""
    streams, own = expected = state_shape(variant, width)
    if tuple(shape[-2:]) == expected:
        return None
    split = ", ".join(f"{key}={getattr(variant, key)}" for key in ("segments", "fractions") if hasattr(variant, key))
    call = f"ExpandStreams({variant.name!r}, {width}, {split})(x)" if split else f"expand_streams(x, {streams})"
    return (
        f"a connection of {streams} streams of width {own} needs [*, {streams}, {own}], got {list(shape)}; call {call} "
        "once, before the first connection"
    )


def output_problem(width: int, positions: int, shape: Sequence[int]) -> str | None:
    """What is wrong with this shape of a branch's output, when the branch read [*, C] at so many positions."""
    if tuple(shape[-1:]) == (width,) and math.prod(shape) == positions * width:
        return None
    return (
        f"a branch has to keep the shape of what it reads, [*, {width}] for {positions} positions; it returned "
        f"{list(shape)}. Wrap the part that keeps it, and reduce the streams before the rest"
    )


def difference_problem(errors: Sequence[float], precisions: Sequence[float]) -> str | None:
    """What is wrong with a model whose outputs for an example differ by `errors`, relative, from those before; outputs
    are rounded to `precisions` (machine epsilon).
    """
    if not errors:
        return (
            "the model returned no array of floating point numbers for `example`, so nothing can be compared; leave "
            "`example` out, or give one for which it returns its outputs as an array, a tuple or a dict"
        )
    for error, precision in zip(errors, precisions, strict=True):
        if not error <= max(1e-4, 8 * precision):
            return (
                f"the model is not the same function with streams (off by {error:.1e} of its largest output), so its "
                "blocks are not what their adapter says; nothing was changed. Check the begin and end of every Branch"
            )
    return None


def history_variant(max_history: int, constraint: str, newest: float, floor: float, iterations: int) -> History:
    """The checked variant. Raises ConfigError."""
    words = {"identity": "identity_preserving"}
    keys = {"window": max_history, "constraint": words.get(constraint, constraint), "iterations": iterations}
    found = named.variant("history", keys | {"newest": newest, "floor": floor})
    assert isinstance(found, History)
    return found


def mix(chart: str, streams: int, keys: Mapping[str, Any]) -> Mix:
    """A checked `variant.mix`; gates and initial values that fit it are found, since nothing else of them is used."""
    rotation = chart in ("quaternion", "cayley")
    init = "hc_paper" if chart == "free" else "near_identity"
    gate = "linear" if chart == "free" else "sigmoid"
    others = {"streams": streams, "init": init, "read.activation": gate, "write.activation": gate, "norm": "flat_rms"}
    return named.streams("ohc" if rotation else "mhc", {"mix": {"chart": chart, **keys}, **others}).mix
