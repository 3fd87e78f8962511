"""Names and hashes of runs are what they promise."""

from __future__ import annotations

import copy
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from config_cases import nodes
from hypothesis import given, settings
from hypothesis import strategies as st

from mhc_exp.config import checks, vocabulary
from mhc_exp.config.build import ConfigError, build
from mhc_exp.config.compose import compose
from mhc_exp.config.effect import idle
from mhc_exp.config.naming import config_hash, run_name, slug_problem
from mhc_exp.config.schema import Config


def test_a_run_is_named_after_its_choices_and_a_hash() -> None:
    config = compose(["variant=mhc", "depth=48", "backend=cpu"])
    assert run_name(config) == f"mhc-d48-cpu-s0-{config_hash(config)[:8]}"
    assert run_name(dataclasses.replace(config, name="my-run.1")) == "my-run.1"
    with pytest.raises(ValueError, match="resolve_backend"):
        run_name(compose(["backend=auto"]))


def test_the_hash_ignores_order_and_where_results_go(valid: dict[str, Any]) -> None:
    expected = config_hash(build(valid))
    assert re.fullmatch(r"[0-9a-f]{12}", expected)
    assert config_hash(build(backwards(valid))) == expected
    elsewhere = copy.deepcopy(valid) | {"name": "other", "runs_root": "/somewhere"}
    elsewhere["tracking"] |= {"wandb": "off", "tags": ["a"], "project": "p"}
    elsewhere["launch"] |= {"mode": "process", "timeout": 5}
    assert config_hash(build(elsewhere)) == expected


def backwards(mapping: dict[str, Any]) -> dict[str, Any]:
    return {key: backwards(value) if isinstance(value, dict) else value for key, value in reversed(mapping.items())}


def test_every_other_key_changes_the_hash(valid: dict[str, Any]) -> None:
    seen = {config_hash(build(valid)): "nothing"}
    without_effect = {("variant", *key.split(".")) for key in idle(build(valid).variant)}
    for path in nodes(valid):
        if path[0] in ("name", "runs_root", "tracking", "launch") or path in without_effect:
            continue
        changed = different(valid, path)
        if changed is None:
            continue
        digest = config_hash(changed)
        assert digest not in seen, f"{'.'.join(path)} hashes like {seen[digest]}"
        seen[digest] = ".".join(path)
    assert len(seen) > 55


def different(valid: dict[str, Any], path: tuple[str, ...]) -> Config | None:
    """A legal configuration that differs from `valid` in the key `path` alone, if one of a few tries is legal."""
    for value in ("other", 3, 0.25, True, False, *literals(".".join(path))):
        mapping = copy.deepcopy(valid)
        parent = mapping
        for key in path[:-1]:
            parent = parent[key]
        if parent[path[-1]] == value or isinstance(parent[path[-1]], dict):
            continue
        parent[path[-1]] = value
        try:
            return build(mapping)
        except ConfigError:
            continue
    return None


def literals(key: str) -> tuple[Any, ...]:
    return getattr(vocabulary.keys().get(key), "__args__", ())


HOSTILE = [
    *(
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "a\\b",
        "/etc",
        "a..b",
        ".hidden",
        "-x",
        "a\x00b",
        "a b",
        "a\n",
        "\n",
        "ä",
        "a" * 300,
    ),
    *("con", "NUL", "com1", "Lpt9.txt", "x.", "~", "$HOME", "a;b", "a*", "ａ", "=x", "a:b", "|", "<a>"),
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused(name: str) -> None:
    assert slug_problem(name)
    config = compose(["backend=cpu"])
    with pytest.raises(ConfigError, match="name"):
        run_name(dataclasses.replace(config, name=name))
    variant = dataclasses.replace(config.variant, name=name)
    if name not in ("con", "NUL", "com1", "x.", "~", ""):  # harmless inside a longer name, refused by checks
        with pytest.raises(ConfigError, match="name"):
            run_name(dataclasses.replace(config, variant=variant))
    assert any(problem.path == "variant.name" for problem in checks.check(dataclasses.replace(config, variant=variant)))


@given(st.one_of(st.text(max_size=130), st.from_regex(r"[A-Za-z0-9._=,+/-]{1,20}", fullmatch=True)))
@settings(deadline=None)
def test_an_accepted_name_is_one_directory_below_its_root(name: str) -> None:
    if slug_problem(name) is None:
        path = Path("/root/runs") / name
        assert path.resolve().parent == Path("/root/runs").resolve()
        assert path.name == name
        assert len(name.encode()) <= 120
