"""What a run directory says about its run beside the rows: run.json and status.json in one mapping.

A crash, a bad disk or a person may leave anything in these files. What is not of its kind is left out here, as if it
had never been said, so that nothing behind this needs a guard of its own.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import sys
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from mhc_exp.config import vocabulary

KINDS: dict[str, type] = {
    **dict.fromkeys(
        ("name", "sweep", "state", "reason", "host", "hostname", "device", "kernels", "recompute", "platform"), str
    ),
    **dict.fromkeys(("created", "updated", "ended", "config_hash", "initial_weights", "wandb_id"), str),
    **dict.fromkeys(("step", "total_steps", "tokens_per_step", "vocab_size", "nonfinite_total"), int),
    **dict.fromkeys(("body_parameters", "connection_parameters"), int),
    **dict.fromkeys(("score", "floor", "chance", "flops_per_token", "seconds_to_first_step"), float),
    **dict.fromkeys(("config", "git", "versions", "data", "yardsticks", "startup"), dict),
}
"""What a fact must be to count as known; those not named here are nobody's to calculate with."""
DEEPEST = 20
"""Levels of a configuration that are read; ours has four."""


def read_facts(run_dir: str | Path) -> dict[str, Any]:
    """run.json overlaid with status.json; a missing or damaged file, or value, contributes nothing."""
    facts: dict[str, Any] = {}
    for name in ("run.json", "status.json"):
        try:
            content = decode((Path(run_dir) / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict):
            facts.update(content)
    return checked_facts(facts)


def checked_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """`facts` without those of the wrong kind, also within the configuration, and numbers as what they are declared."""
    kept = {name: value for name, value in facts.items() if name not in KINDS}
    known = {name: fitting(facts[name], {kind}) for name, kind in KINDS.items() if name in facts}
    kept |= {name: value for name, value in known.items() if value is not None or facts[name] is None}
    config = kept.pop("config", None)
    return kept | {"config": _checked_config(config)} if isinstance(config, dict) else kept


def fitting(value: Any, kinds: set[type]) -> Any:
    """`value` if it is one of `kinds`, a number converted to the one declared; else None.

    JSON has one kind of number, and W&B writes 1.0 as 1: without this a column would depend on where it was read.
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        return value if type(value) in kinds else None
    if not abs(value) <= sys.float_info.max:
        return None
    if float in kinds:
        return float(value)
    return int(value) if int in kinds and value == int(value) else None


def number(facts: dict[str, Any], name: str) -> float | None:
    """`facts[name]` if it is a number."""
    return fitting(facts.get(name), {float})


def _checked_config(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`config` without values that its schema does not allow; keys of other versions stay as they are."""
    kept = {}
    for key, value in config.items():
        kinds = _declared().get(prefix + key)
        if isinstance(value, dict) and (kinds is None or dict in kinds):
            if prefix.count(".") < DEEPEST:
                kept[key] = _checked_config(value, f"{prefix}{key}.")
        elif value is None or kinds is None:
            kept[key] = value
        elif (fit := fitting(value, kinds)) is not None:
            kept[key] = fit
    return kept


@functools.cache
def _declared() -> dict[str, set[type]]:
    """Dotted key of the configuration -> the types that its values have in JSON."""
    return {key: _types(hint) for key, hint in vocabulary.keys().items()}


def _types(hint: Any) -> set[type]:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _types(inner[0])
    if origin in (Union, UnionType):
        return set().union(*map(_types, inner))
    if origin is Literal:
        return {type(choice) for choice in inner}
    return {dict} if dataclasses.is_dataclass(hint) else {origin or hint}


# --- JSON ------------------------------------------------------------------------------------------------------------


def decode(text: str) -> Any:
    """The JSON in `text`; a number that float64 does not hold is None, like NaN and Infinity. Raises ValueError."""
    try:
        return _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _finite(digits: str) -> float | None:
    return value if math.isfinite(value := float(digits)) else None


def _whole(digits: str) -> int | None:
    return None if _finite(digits) is None else int(digits)


_DECODER = json.JSONDecoder(parse_constant=lambda _: None, parse_float=_finite, parse_int=_whole)
