"""Names: the hash of what decides a result, the name of a run, and which names may become a directory."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from mhc_exp.config.build import ConfigError, Problem, as_mapping
from mhc_exp.config.effect import canonical
from mhc_exp.config.schema import Config

IRRELEVANT = frozenset({"name", "runs_root", "tracking", "launch"})
"""Keys that say where a result goes, not what it is: two configurations that differ only here have the same hash."""

SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=,+-]{0,119}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def config_hash(config: Config) -> str:
    """12 hexadecimal digits of the result-relevant keys; the order in which they were given does not matter."""
    relevant = {key: value for key, value in as_mapping(config).items() if key not in IRRELEVANT}
    relevant["variant"] = canonical(config.variant)
    if config.backend.kernels == "auto":  # the same function: only who asks for a tier by name wants a run of its own
        del relevant["backend"]["kernels"]
    if not config.backend.graphs:  # likewise
        del relevant["backend"]["graphs"]
    if config.training.recompute == "auto":
        del relevant["training"]["recompute"]
    if config.training.recompute_length is None:
        del relevant["training"]["recompute_length"]
    written = json.dumps(_normal(relevant), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(written.encode()).hexdigest()[:12]


def run_name(config: Config) -> str:
    """`config.name`, or the choices a person would say and a short hash: `mhc-d48-cpu-s0-1a2b3c4d`.

    Raises ConfigError for a name that may not become a directory, and ValueError while `backend=auto` is unresolved.
    """
    if config.backend.name == "auto":
        raise ValueError("a run is named after its backend: call checks.resolve_backend first")
    name = config.name
    if name is None:
        choices = f"{config.variant.name}-d{config.depth}-{config.backend.name}-s{config.seed}"
        name = f"{choices}-{config_hash(config)[:8]}"
    problem = slug_problem(name)
    if problem:
        raise ConfigError([Problem("name" if config.name is not None else "variant.name", problem)])
    return name


def slug_problem(name: str) -> str | None:
    """Why `name` may not become a directory on some machine, or None."""
    if SLUG.fullmatch(name) is None:
        shown = repr(name if len(name) <= 40 else f"{name[:37]}...")
        return f"{shown} is not a name: use 1 to 120 of A-Z a-z 0-9 . _ = , + - and start with a letter or digit"
    if ".." in name or name.endswith("."):
        return f"{name!r} is not a name: no two dots in a row and no dot at the end"
    if _RESERVED.fullmatch(name):
        return f"{name!r} is reserved by Windows; type another name, such as {name}-1"
    return None


def _normal(value: Any) -> Any:
    """Floats by their exact bits, so that no printing rule of a Python version can move a hash."""
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, dict):
        return {key: _normal(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_normal(item) for item in value]
    return value
