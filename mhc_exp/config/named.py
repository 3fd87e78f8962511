"""A variant of conf/variant by its name and the keys that differ, for Python callers: no command line, no Hydra."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import yaml

from mhc_exp.config.build import ConfigError, Problem, build_group
from mhc_exp.config.history_rules import start_problems
from mhc_exp.config.history_variants import History
from mhc_exp.config.spelling import suggest
from mhc_exp.config.variant_rules import stream_problems
from mhc_exp.config.variants import Streams, Variant
from mhc_exp.config.vocabulary import option_file, options
from mhc_exp.topology import families


def variant(name: str | Variant, keys: Mapping[str, Any] | None = None) -> Variant:
    """The variant `name` (or this one) with other values for `keys`: dotted, `{"mix.chart": "cayley"}`, or nested,
    `{"mix": {"chart": "cayley"}}`. Raises ConfigError with all problems.
    """
    mapping = option(name) if isinstance(name, str) else dataclasses.asdict(name)
    for key, value in (keys or {}).items():
        mapping = _laid_over(mapping, _nested(key, value))
    found = cast(Variant, build_group("variant", mapping))
    own = families.connection(found)
    problems = list(stream_problems(own)) if own is not None else []
    problems += start_problems(found) if isinstance(found, History) else []
    if problems:
        raise ConfigError(problems)
    return found


def streams(name: str | Variant, keys: Mapping[str, Any] | None = None) -> Streams:
    """The same for wirings whose connections stand alone: family `streams`, each predicting its own read weights."""
    found = variant(name, keys)
    if not isinstance(found, Streams):
        files = {one: option(one) for one in options("variant")}
        alone = [n for n, one in files.items() if one["family"] == "streams" and one["read_from"] == "current"]
        names = ", ".join(alone)
        raise ConfigError(
            [Problem("variant", f"{found.name} (family {found.family}) is no stream connection; type one of {names}")]
        )
    if found.read_from == "previous":
        raise ConfigError(
            [
                Problem(
                    "variant.read_from",
                    f"a connection of {found.name} predicts the reads of the one after it, which single modules "
                    "cannot; type read_from='current' with reduce='head', or variant='deepseek_v4'",
                )
            ]
        )
    return found


def option(name: str) -> dict[str, Any]:
    """The mapping of conf/variant/NAME.yaml, laid over the files that it builds on."""
    file = option_file("variant", name)
    if file is None:
        allowed = options("variant")
        said = f"unknown {name!r}{suggest(name, allowed)}; one of {', '.join(allowed)}"
        raise ConfigError([Problem("variant", said)])
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    mapping: dict[str, Any] = {}
    for parent in content.pop("defaults", []):
        if parent != "_self_":
            mapping = _laid_over(mapping, option(parent))
    return _laid_over(mapping, content)


def _nested(key: str, value: Any) -> dict[str, Any]:
    first, _, rest = key.partition(".")
    return {first: _nested(rest, value) if rest else value}


def _laid_over(below: Any, above: Any) -> Any:
    if not (isinstance(below, dict) and isinstance(above, Mapping)):
        return above
    return below | {key: _laid_over(below.get(key), value) for key, value in above.items()}
