"""Every word a person may type: the groups with their options, and the dotted keys of the schema."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

from mhc_exp.config.schema import DISCRIMINATORS, Config
from mhc_exp.config.spelling import nearest
from mhc_exp.paths import find

GROUPS = tuple(
    key for key, hint in get_type_hints(Config).items() if key in DISCRIMINATORS or dataclasses.is_dataclass(hint)
)
"""Groups that are part of a configuration; each has one option at a time."""

OVERLAYS = ("experiment", "sweep")
"""Groups of whole recipes, laid over the others; null means none."""

ALL_GROUPS = (*GROUPS, *OVERLAYS)


@functools.cache
def keys(variant: type | None = None, dataset: type | None = None) -> dict[str, Any]:
    """Dotted key -> type hint of everything in a `Config` with these choices (None: every key of every choice)."""
    chosen = {"variant": variant, "dataset": dataset}
    found: dict[str, Any] = {}
    for key, hint in get_type_hints(Config, include_extras=True).items():
        if key in DISCRIMINATORS:
            classes = [chosen[key]] if chosen[key] else list(DISCRIMINATORS[key][1].values())
            found[key] = hint
            for cls in classes:
                found |= _keys_of(cls, f"{key}.")
        else:
            found |= _with_children(key, hint)
    return found


def leaves(found: dict[str, Any]) -> list[str]:
    """The keys of `found` that take a value rather than further keys."""
    return [key for key, hint in found.items() if not dataclasses.is_dataclass(hint) and key not in DISCRIMINATORS]


def options(group: str, config_dirs: Sequence[Path] = ()) -> list[str]:
    """What may follow `group=`: the YAML files of conf/GROUP (or sweeps/) and of `config_dirs`."""
    places = [find("conf") / group, *(directory / group for directory in config_dirs)]
    if group == "sweep":
        places[0] = find("sweeps")
    return sorted({file.stem for place in places for file in place.glob("*.yaml")})


def option_file(group: str, option: str, config_dirs: Sequence[Path] = ()) -> Path | None:
    """The file behind `group=option`."""
    folder = find("sweeps") if group == "sweep" else find("conf") / group
    candidates = [*(directory / group for directory in config_dirs), folder]
    return next((file for place in candidates if (file := place / f"{option}.yaml").is_file()), None)


def advice(key: str, found: dict[str, Any]) -> str:
    """What to say about a key that is not among those of `found`: the likely ones, or where to look."""
    parent, dotted = key.rpartition(".")[0], key.replace("/", ".")
    if parent in leaves(found):
        return f"{parent} takes a value and has no keys of its own; type {parent}=..."
    ending = dotted.rpartition(".")[2]
    elsewhere = [path for path in leaves(found) if path.rpartition(".")[2] == ending]
    likely = [path for path in elsewhere if path.split(".")[0] == dotted.split(".")[0]]
    if not likely:
        close = nearest(dotted, [*found, *OVERLAYS, "hydra"])
        likely = [close] if close else elsewhere
    if likely:
        return f"unknown key; did you mean {' or '.join(repr(path) for path in likely[:4])}?"
    group = key.split(".")[0]
    if group in found:
        inside = [path for path in leaves(found) if path.startswith(f"{group}.")]
        return f"unknown key; keys of {group}: {', '.join(inside)}"
    top = [path for path in leaves(found) if "." not in path]
    return f"unknown key; groups: {', '.join(ALL_GROUPS)}; single keys: {', '.join(top)}"


def _keys_of(cls: Any, prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, hint in get_type_hints(cls, include_extras=True).items():
        found |= _with_children(prefix + key, hint)
    return found


def _with_children(key: str, hint: Any) -> dict[str, Any]:
    children = _keys_of(hint, f"{key}.") if dataclasses.is_dataclass(hint) else {}
    return {key: hint, **children}
