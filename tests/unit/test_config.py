"""The schema, conf/ and the rules agree with each other; values, types and this machine."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from config_cases import nodes
from hypothesis import given, settings
from hypothesis import strategies as st

from mhc_exp.config import checks, machine, vocabulary
from mhc_exp.config.build import ConfigError, Problem, as_mapping, build
from mhc_exp.config.compose import compose, compose_mapping
from mhc_exp.config.naming import config_hash, run_name
from mhc_exp.config.overrides import override_problems
from mhc_exp.config.plan import plan
from mhc_exp.config.schema import DISCRIMINATORS, Config
from mhc_exp.config.variant_rules import INIT_NEEDS
from mhc_exp.paths import find

OPTIONS = [(group, option) for group in vocabulary.GROUPS for option in vocabulary.options(group)]
REQUIRED = {
    "text": ["dataset.path=."],
    "tokens": ["dataset.train=a.bin", "dataset.validation=b.bin"],
    "hub": ["dataset.id=owner/data"],
}
"""What the options without a complete default need beside their name."""


def words_for(group: str, option: str) -> list[str]:
    return [f"{group}={option}", *(REQUIRED.get(option, []) if group == "dataset" else [])]


@pytest.fixture(scope="module")
def composed() -> dict[tuple[str, str], dict[str, Any]]:
    """The composed mapping of every option of every group."""
    return {(group, option): compose_mapping(words_for(group, option))[0] for group, option in OPTIONS}


# --- conf/ and the schema ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_has_exactly_the_keys_of_its_dataclass(
    composed: dict[tuple[str, str], dict[str, Any]], group: str, option: str
) -> None:
    mapping = composed[group, option][group]
    if group in DISCRIMINATORS:
        discriminator, classes = DISCRIMINATORS[group]
        cls = classes[mapping[discriminator]]
    else:
        cls = get_type_hints(Config)[group]
    assert list(flat(mapping)) == list(flat_fields(cls))


def flat(mapping: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in sorted(mapping.items()):
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def flat_fields(cls: Any, prefix: str = "") -> Iterator[str]:
    for key, hint in sorted(get_type_hints(cls).items()):
        if dataclasses.is_dataclass(hint):
            yield from flat_fields(hint, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_builds_and_survives_the_round_trip(
    composed: dict[tuple[str, str], dict[str, Any]], group: str, option: str
) -> None:
    config = build(composed[group, option])
    assert build(as_mapping(config)) == config


@pytest.mark.parametrize(
    "words",
    [
        *([f"variant={option}"] for option in vocabulary.options("variant")),
        *([f"experiment={option}"] for option in vocabulary.options("experiment")),
        *([f"model={option}"] for option in vocabulary.options("model")),
        *([f"training={option}"] for option in vocabulary.options("training")),
        *([f"dataset={option}"] for option in vocabulary.options("dataset") if option not in REQUIRED),
        ["variant=mhc", "variant.coefficients=static"],
        ["variant=hc", "variant.coefficients=static"],
        ["variant=mhc", "variant.streams=1"],
        ["variant=hc", "variant.scale_output_init=true", "variant.mix.chart=identity"],
        ["dataset=text", "dataset.path=."],
    ],
    ids=" ".join,
)
def test_what_is_shipped_and_documented_passes_every_rule(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "installed", lambda package: True)
    assert override_problems(words) == []
    assert checks.check(compose([*words, "backend=cpu"])) == []


@pytest.mark.parametrize("init", vocabulary.keys()["variant.init"].__args__)
def test_every_preset_says_what_it_needs(init: str) -> None:
    assert init in INIT_NEEDS


def test_every_file_opens_with_what_it_is_and_a_command_that_uses_it() -> None:
    files = [*find("conf").rglob("*.yaml"), *find("sweeps").glob("*.yaml")]
    assert len(files) > 40
    for file in files:
        lines = [line for line in file.read_text().splitlines() if not line.startswith("# @package")]
        assert re.match(r"# \S.{15,}", lines[0]), file
        assert re.match(r"#   python -m mhc_exp( |$)", lines[1]), file
        group = file.parent.name
        if group in (*vocabulary.GROUPS, *vocabulary.OVERLAYS) and file.stem not in ("default", "adamw"):
            assert any(word in lines[1] for word in (f"={file.stem}", "experiment=seed_demo", "tracking.project")), file


def test_the_commands_in_the_files_are_legal(tmp_path: Path) -> None:
    (tmp_path / "my_notes").touch()
    for file in [*find("conf").rglob("*.yaml"), *find("sweeps").glob("*.yaml")]:
        command = next(line for line in file.read_text().splitlines() if line.startswith("#   python -m mhc_exp"))
        words = command.split("#")[1].removeprefix("   python -m mhc_exp").split()
        overrides = [word for word in words if "=" in word]
        assert override_problems(overrides, multirun="-m" in words) == [], file


JOBS = {
    "backend_parity": 6,
    "chart": 33,
    "depth": 15,
    "depth_reasoning": 36,
    "depth_seeds": 27,
    "initial_values": 21,
    "learning_rate": 15,
    "seed": 9,
    "sinkhorn_iterations": 6,
    "streams": 8,
    "wirings": 102,
}


@pytest.mark.parametrize("name", vocabulary.options("sweep"))
def test_every_job_of_a_sweep_file_can_run_in_a_directory_of_its_own(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "installed", lambda package: True)
    monkeypatch.setattr(machine, "cuda_possible", lambda: False)
    assert override_problems([f"sweep={name}"], multirun=True) == []
    jobs = plan([f"sweep={name}"])
    assert jobs is not None
    assert len({run_name(job.config) for job in jobs}) == len(jobs) == JOBS[name]
    assert {job.sweep for job in jobs} == {name}


def test_the_sweep_of_wirings_has_all_of_them_but_the_demos() -> None:
    jobs = plan(["sweep=wirings", "backend=cpu"])
    assert jobs is not None
    demos = {"demo_hc", "demo_mhc"}
    assert {job.config.variant.name for job in jobs} == set(vocabulary.options("variant")) - demos


def test_the_seed_sweep_is_the_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys of cuda/configs/tiny_{12,24,48}l_{baseline,hc,mhc}.yaml, as published."""
    monkeypatch.setattr(machine, "installed", lambda package: True)
    jobs = plan(["sweep=seed", "backend=cpu"])
    assert jobs is not None
    configs = [job.config for job in jobs]
    published = {(12, 32), (24, 32), (48, 16)}
    cells = {(config.variant.name, config.depth, config.training.batch_size) for config in configs}
    assert cells == {(name, *cell) for name in ("baseline", "demo_hc", "demo_mhc") for cell in published}
    for config in configs:
        model, optimizer = config.model, config.optimizer
        assert (model.seq_len, model.width, model.heads, model.d_ff) == (128, 256, 4, 1024)
        assert (optimizer.lr, optimizer.weight_decay, optimizer.schedule, optimizer.warmup) == (
            2e-3,
            0.0,
            "constant",
            0.0,
        )
        assert (optimizer.beta1, optimizer.beta2, optimizer.clip) == (0.9, 0.999, None)
        assert (config.seed, config.training.steps, config.dataset.kind) == (0, 800, "increment")


# --- types and ranges ----------------------------------------------------------------------------------------------

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(10**400),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.sampled_from(["???", "auto", "mhc", "streams", "\x00", "1e-3", -1, 0, 1e6]),
)


@pytest.mark.fault(row=24)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_mapping_builds_or_names_the_damage(valid: dict[str, Any], data: st.DataObject) -> None:
    mapping = copy.deepcopy(valid)
    places = list(nodes(mapping))
    path = data.draw(st.sampled_from(places))
    parent = mapping
    for key in path[:-1]:
        parent = parent[key]
    kind = data.draw(st.sampled_from(["replace", "delete", "add"]))
    if kind == "replace":
        parent[path[-1]] = data.draw(JUNK)
    elif kind == "delete":
        del parent[path[-1]]
    else:
        path = (*path[:-1], data.draw(st.text(min_size=1, max_size=8)))
        parent[path[-1]] = data.draw(JUNK)
    config, problems = attempt(mapping)
    if config is not None:
        assert build(as_mapping(config)) == config
        return
    # another legal `kind` or `family` makes the rest of its group wrong instead
    damaged = path[0] if path[-1] in ("kind", "family") else ".".join(path)
    places = [problem.path for problem in problems]
    assert any(place == damaged or place.startswith(f"{damaged}.") for place in places), (path, places)
    assert all(problem.message for problem in problems)


def attempt(mapping: dict[str, Any]) -> tuple[Config | None, list[Problem]]:
    try:
        return build(mapping), []
    except ConfigError as error:
        return None, error.problems


def test_a_whole_number_may_be_written_with_an_exponent(valid: dict[str, Any]) -> None:
    mapping = copy.deepcopy(valid)
    mapping["training"] |= {"steps": None, "tokens": 1e6}
    assert build(mapping).training.tokens == 1_000_000
    mapping["training"]["tokens"] = 1.5
    with pytest.raises(ConfigError, match=re.escape("training.tokens: expected a whole number, got 1.5")):
        build(mapping)


# --- this machine --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packages", "cuda", "apple", "expected"),
    [
        ({"torch", "mlx"}, True, False, "cuda"),
        ({"torch", "mlx"}, False, True, "mlx"),
        ({"torch", "mlx"}, False, False, "cpu"),
        ({"torch"}, False, True, "cpu"),
        ({"mlx"}, True, False, "mlx"),
    ],
)
def test_auto_takes_the_fastest_installed_backend(
    monkeypatch: pytest.MonkeyPatch, packages: set[str], cuda: bool, apple: bool, expected: str
) -> None:
    monkeypatch.setattr(machine, "installed", lambda package: package in packages)
    monkeypatch.setattr(machine, "cuda_possible", lambda: cuda)
    monkeypatch.setattr(machine, "cuda_available", lambda: cuda)
    monkeypatch.setattr(machine, "apple_silicon", lambda: apple)
    resolved = checks.resolve_backend(compose(["backend=auto"]))
    assert resolved.backend.name == expected
    assert resolved.backend.tf32 == (expected == "cuda")
    if expected != "cuda":
        assert config_hash(resolved) == config_hash(compose([f"backend={expected}"]))


def test_torch_is_not_asked_about_cuda_without_a_sign_of_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "installed", lambda package: True)
    monkeypatch.setattr(machine, "cuda_possible", lambda: False)
    monkeypatch.setattr(machine, "cuda_available", lambda: pytest.fail("imported torch"))
    for backend in ("auto", "cpu", "mlx"):
        assert checks.check(compose([f"backend={backend}"])) == []


@pytest.mark.parametrize(
    ("backend", "package"), [("cpu", "torch"), ("cuda", "torch"), ("mlx", "mlx"), ("auto", "torch")]
)
def test_a_missing_backend_gives_the_line_to_type(monkeypatch: pytest.MonkeyPatch, backend: str, package: str) -> None:
    monkeypatch.setattr(machine, "installed", lambda name: False)
    said = [str(problem) for problem in checks.check(compose([f"backend={backend}"]))]
    assert [line for line in said if line.startswith("backend: ") and f"pip install 'mhc-exp[{package}]'" in line]


def test_a_directory_is_not_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_tracker_that_nobody_has").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not machine.installed("a_tracker_that_nobody_has")
    assert machine.installed("numpy")
