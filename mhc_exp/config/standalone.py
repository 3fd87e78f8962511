"""Variants of connections that stand alone in somebody's model, by name and keys: for the library of either backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mhc_exp.config import named
from mhc_exp.config.build import ConfigError, Problem
from mhc_exp.config.history_variants import History
from mhc_exp.config.variants import Mix, Streams, Variant


def stream_variant(variant: str | Variant, streams: int | None, layers: int | None, keys: Mapping[str, Any]) -> Streams:
    """The stream variant by name and keys, with its demands on a lone connection met. Raises ConfigError."""
    spec = named.streams(variant, dict(keys) | ({} if streams is None else {"streams": streams}))
    if spec.mix.budget is not None and layers is None:
        raise ConfigError(
            [Problem("layers", f"{spec.name} shares a mixing budget among all connections; type layers=<their number>")]
        )
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


def injected_variant(variant: str | Variant, streams: int | None, count: int, keys: Mapping[str, Any]) -> Streams:
    """The variant with `reduce="mean"` and `init="preserving"` where it says nothing else and may."""
    chosen = {key.partition(".")[0] for key in keys}
    spec = stream_variant(variant, streams, count, keys)
    if not isinstance(variant, str):
        return spec
    if "reduce" not in chosen and spec.reduce == "sum":
        spec = named.streams(spec, {"reduce": "mean"})
    if "init" not in chosen:
        try:
            spec = named.streams(spec, {"init": "preserving"} if spec.streams > 1 else {})
        except ConfigError:  # gates that are not sigmoids: these keep the initial values of their paper
            return spec
    return spec


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
