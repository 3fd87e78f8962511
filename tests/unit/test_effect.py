"""Keys without effect: found by changing every key of every wiring, refused where they were typed, and in no hash."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from dataclasses import replace
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest

from mhc_exp.body import reference as body
from mhc_exp.body.parameters import initial_parameters, is_connection
from mhc_exp.config.build import ConfigError
from mhc_exp.config.checks import accept
from mhc_exp.config.compose import compose, compose_mapping
from mhc_exp.config.effect import NEUTRAL, canonical, idle
from mhc_exp.config.naming import config_hash
from mhc_exp.config.plan import plan
from mhc_exp.config.variant_rules import variant_problems
from mhc_exp.config.variants import Mix
from mhc_exp.config.words import typed_keys
from mhc_exp.paths import find

SHIPPED = sorted(file.stem for file in (find("conf") / "variant").glob("*.yaml"))
TINY = ["depth=4", "model.width=8", "model.heads=2", "model.d_ff=8", "model.seq_len=4", "backend=cpu"]
CHARTS = get_args(get_type_hints(Mix)["chart"])
CASES = [
    *([f"variant={name}"] for name in SHIPPED),
    *(["variant=mhc", f"variant.mix.chart={chart}"] for chart in CHARTS if chart != "free"),
    *([f"variant={name}", "variant.coefficients=static"] for name in ("mhc", "hc", "deepseek_v4", "identity_hc")),
    *([f"variant={name}", "variant.coefficients=static"] for name in ("hyperloop", "frac", "vwn", "muddformer")),
    ["variant=mhc", "variant.mix.solver=newton"],
    ["variant=xhc", "variant.fixed=2", "variant.active=2"],
    ["variant=xhc", "variant.mix.chart=identity"],
    ["variant=xhc", "variant.mix.order=rows_last"],
    ["variant=xhc", "variant.mix.apply=transposed"],
    *(["variant=laurel", f"variant.laurel.terms={terms}"] for terms in ("rw", "lr", "none")),
    *(["variant=history", f"variant.constraint={one}"] for one in ("identity_preserving", "doubly_stochastic")),
    ["variant=history", "variant.window=1"],
]


def tiny(words: list[str]) -> Any:
    return _composed(tuple(words))


@functools.cache
def _composed(words: tuple[str, ...]) -> Any:
    return compose([*TINY, *words])


def leaves(spec: Any, prefix: str = "") -> dict[str, Any]:
    """Type of every key of a wiring."""
    found: dict[str, Any] = {}
    for key, hint in get_type_hints(type(spec), include_extras=True).items():
        value = getattr(spec, key)
        found |= leaves(value, f"{prefix}{key}.") if dataclasses.is_dataclass(value) else {prefix + key: hint}
    return {key: hint for key, hint in found.items() if key not in ("name", "family")}


def changed(spec: Any, key: str, value: Any) -> Any:
    head, _, rest = key.partition(".")
    return replace(spec, **{head: changed(getattr(spec, head), rest, value) if rest else value})


def others(hint: Any, value: Any) -> list[Any]:
    """Some other values of a key."""
    if get_origin(hint) is Annotated or type(None) in get_args(hint):
        return others(get_args(hint)[0], value) + ([None] if type(None) in get_args(hint) and value is not None else [])
    if get_origin(hint) is Literal:
        return [one for one in get_args(hint) if one != value]
    if hint is bool:
        return [not value]
    found = {int: [1, 2, 3], float: [0.0, 0.3, 0.7]}[hint]
    return [one for one in found if one != value]


def nature(config: Any) -> list[Any]:
    """What a wiring is: its initial parameters, and its function of parameters that depend on their name alone."""
    initial = initial_parameters(config, 5)
    moved = {
        name: value + np.random.default_rng(zlib.crc32(name.encode())).normal(0, 0.5, value.shape)
        for name, value in initial.items()
        if is_connection(name)
    }
    tokens = np.random.default_rng(0).integers(0, 5, (2, 4)).astype(np.int32)
    exact = {name: value.astype(np.float64) for name, value in (initial | moved).items()}
    shapes = sorted((name, value.shape, zlib.crc32(value.tobytes())) for name, value in initial.items())
    return [shapes, np.round(body.logits(exact, config, tokens), 9).tolist()]


@pytest.mark.parametrize("words", CASES, ids=" ".join)
def test_the_keys_without_effect_are_those_that_change_nothing(words: list[str]) -> None:
    """Every key of the wiring gets other legal values, one at a time."""
    config = tiny(words)
    before, without, tried = nature(config), set(), set()
    for key, hint in leaves(config.variant).items():
        variants = [changed(config.variant, key, value) for value in others(hint, _at(config.variant, key))]
        legal = [one for variant in variants if not [*variant_problems(one := replace(config, variant=variant))]]
        tried |= {key} if legal else set()
        if legal and all(nature(one) == before for one in legal):
            without.add(key)
    assert without - _equal_by_value(config.variant) == tried & idle(config.variant).keys()
    assert not idle(config.variant).keys() - leaves(config.variant).keys()


def _equal_by_value(variant: Any) -> set[str]:
    """Keys of Sinkhorn that this test cannot see move: without eps, a softmax is the row normalisation with which
    columns_last begins, and the reference of Newton's method is its limit.
    """
    mix = getattr(variant, "mix", None)
    if mix is None or mix.chart != "sinkhorn":
        return set()
    if mix.solver == "newton":
        return {"mix.iterations", "mix.order"}
    return {"mix.start"} if mix.order == "columns_last" and mix.eps == 0 else set()


def _at(spec: Any, key: str) -> Any:
    for name in key.split("."):
        spec = getattr(spec, name)
    return spec


# -- refused where it was typed --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "path", "said"),
    [
        (["variant=kromhc", "variant.mix.iterations=5"], "variant.mix.iterations",
         "has no effect with variant.mix.chart=kronecker; leave it out, or type variant.mix.chart=sinkhorn"),
        (["variant=hc", "variant.mix={order: columns_last, apply: plain}"], "variant.mix.order", "mix.chart=free"),
        (["variant=mhc", "variant.mix.expansion=3"], "variant.mix.expansion", "variant.mix.chart=orthostochastic"),
        (["variant=hc", "variant.coefficients=static", "variant.squash=none"], "variant.squash",
         "coefficients=dynamic"),
        (["variant=identity_hc", "variant.mix.budget=4.0"], "variant.mix.budget", "variant.mix.chart=identity"),
        (["variant=baseline", "variant.gate.init=zero"], "variant.gate.init", "type variant.gate.shape=scalar"),
        (["variant=baseline", "variant.laurel.rank=8"], "variant.laurel.rank", "type variant.laurel.terms=lr"),
        (["variant=history", "variant.floor=0.2"], "variant.floor", "type variant.constraint=identity_preserving"),
        (["variant=history", "variant.iterations=9"], "variant.iterations", "with variant.constraint=simplex"),
        (["variant=history", "variant.window=1", "variant.newest=0.9"], "variant.newest", "with variant.window=1"),
        (["variant=frac", "variant.coefficients=static", "variant.alpha=0.1"], "variant.alpha", "coefficients=static"),
        (["variant=xhc", "variant.fixed=4", "variant.router_std=0.1"], "variant.router_std", "type variant.fixed=3"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)  # fmt: skip
def test_a_typed_key_without_effect_is_refused_with_what_to_type(words: list[str], path: str, said: str) -> None:
    mapping = compose_mapping([*TINY, *words])[0]
    with pytest.raises(ConfigError) as refused:
        accept(mapping, typed_keys(words))
    (problem,) = refused.value.problems
    assert problem.path == path
    assert said in problem.message
    assert accept(mapping).variant.name, "the same from a file is fine"


@pytest.mark.parametrize("words", CASES, ids=" ".join)
def test_what_is_proposed_gives_the_key_an_effect(words: list[str]) -> None:
    """Where the proposal is legal by itself; other rules say what else it needs."""
    config = tiny(words)
    for key, reason in idle(config.variant).items():
        path, _, value = reason.needs.partition("=")
        number = int(value) if value.isdigit() else value
        proposed = changed(config.variant, path, number)
        assert key not in idle(proposed) or idle(proposed)[key] != reason


def test_a_sweep_names_the_jobs_in_which_a_key_has_no_effect() -> None:
    with pytest.raises(ConfigError, match=r"variant.mix.iterations: has no effect .*kronecker.* \(job 2 of 2\)"):
        plan([*TINY, "variant=mhc", "variant.mix.chart=sinkhorn,kronecker", "variant.mix.iterations=5"])


@pytest.mark.parametrize("name", SHIPPED)
def test_files_may_say_what_has_no_effect(name: str) -> None:
    words = [f"variant={name}", "depth=4", "backend=cpu"]
    assert accept(compose_mapping(words)[0], typed_keys(words)).variant.name == name


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (["variant=mhc", "depth=12", "+sweep=chart"], {"depth"}),
        (["variant.mix={chart: exp, order: rows_last}"], {"variant.mix.chart", "variant.mix.order"}),
        (["variant.mix.iterations=1,5", "++seed=3", "hydra.verbose=true"], {"variant.mix.iterations", "seed"}),
        ([], set()),
    ],
    ids=["words", "mapping", "prefixes", "none"],
)
def test_the_keys_that_words_set(words: list[str], keys: set[str]) -> None:
    assert typed_keys(words) == keys


# -- in no hash ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_wirings_hash_as_they_are_written(name: str) -> None:
    """Their runs keep the names that they had before anything was left out."""
    variant = tiny([f"variant={name}"]).variant
    assert canonical(variant) == dataclasses.asdict(variant)


@pytest.mark.parametrize("words", CASES, ids=" ".join)
def test_a_value_without_effect_is_in_no_hash_and_any_other_is(words: list[str]) -> None:
    config = tiny(words)
    for key, hint in leaves(config.variant).items():
        for value in others(hint, _at(config.variant, key)):
            other = replace(config, variant=changed(config.variant, key, value))
            if other.variant.family != config.variant.family or idle(other.variant) != idle(config.variant):
                continue
            assert (config_hash(other) == config_hash(config)) == (key in idle(config.variant) and key in NEUTRAL), key
