"""Row 21: a run goes on with another configuration, other data or other code than it began with."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from run_cases import go, make, small_config

from mhc_exp.config.build import as_mapping, build
from mhc_exp.runs import identity, launch, worker
from mhc_exp.runs.directory import RunDirectory, RunRefused

CHANGES: dict[str, Any] = {
    "depth": 3,
    "seed": 1,
    "model.width": 32,
    "model.dropout": 0.1,
    "model.init": "gpt2",
    "dataset.vocab_size": 17,
    "optimizer.lr": 0.5,
    "optimizer.clip": None,
    "optimizer.schedule": "constant",
    "training.steps": 21,
    "training.batch_size": 6,
    "training.nonfinite": "continue",
    "training.eval_every": 7,
    "variant.name": "other",
}
"""One key of every group that decides a result."""


def changed(config, key: str, value: Any):
    mapping = as_mapping(config)
    group, _, leaf = key.rpartition(".")
    (mapping[group] if group else mapping)[leaf] = value
    return build(mapping)


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def refusal(root: Path, key: str) -> list[str]:
    """What is wrong with the answer to a changed `key`."""
    config = dataclasses.replace(small_config(str(root / key)), name="mine")
    run = make(config)
    run.update_status("interrupted", step=5)
    before = contents(run.path)
    old = config
    for part in key.split("."):
        old = getattr(old, part)
    result = go(changed(config, key, CHANGES[key]))
    wrong = [] if (result.state, result.exit_code) == ("refused", 2) else [f"{result.state}, {result.exit_code}"]
    if f"  {key}: {old} there, {CHANGES[key]} here" not in result.message or "name=mine-2" not in result.message:
        wrong.append(result.message)
    return wrong + ([] if contents(run.path) == before else ["the run was changed"])


@pytest.mark.fault(row=21)
@pytest.mark.parametrize("key", CHANGES)
def test_another_configuration_is_refused_with_both_values(key: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, key) == []


@pytest.mark.fault(row=21, mutation=True)
def test_a_launch_that_does_not_compare_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_refuse_other_config", lambda run, config: None)
    monkeypatch.setattr(worker, "work", lambda run: 0)
    assert refusal(tmp_path, "depth")


DATA = {"name": "text", "sha256": "aa", "split": "tail", "vocab_size": 256, "held_out_sha256": "bb"}


@pytest.mark.fault(row=21)
@pytest.mark.parametrize("key", DATA)
def test_other_data_are_refused_with_what_differs(key: str, tmp_path: Path) -> None:
    run = make(small_config(str(tmp_path)))
    worker._same_data(run, DATA)
    worker._same_data(run, dict(DATA))
    before = contents(run.path)
    with pytest.raises(RunRefused, match=rf"began with other data(.|\n)*{key}: {DATA[key]} then, other now"):
        worker._same_data(run, {**DATA, key: "other"})
    assert contents(run.path) == before


def continued(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> str:
    run.add_facts(**worker._other_code(run))
    return capsys.readouterr().err


@pytest.mark.fault(row=21)
def test_other_code_is_put_on_record_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    run = make(small_config(str(tmp_path)))
    run.update_status("interrupted", step=5)
    assert continued(run, capsys) == ""
    assert "continued_by" not in run.identity
    began = {name: run.identity[name] for name in worker.CODE}
    for number, commit in enumerate(("1" * 40, "1" * 40, "2" * 40)):
        monkeypatch.setattr(identity, "git_state", lambda path, commit=commit: {"commit": commit, "dirty": False})
        said = continued(run, capsys)
        assert ("other code (git" in said) == (number != 1)
    stored = json.loads((run.path / "run.json").read_text())
    assert [entry["git"]["commit"][0] for entry in stored["continued_by"]] == ["1", "2"]
    assert [entry["step"] for entry in stored["continued_by"]] == [5, 5]
    assert {name: stored[name] for name in worker.CODE} == began
    monkeypatch.setattr(identity, "versions", lambda: {"numpy": "99"})
    assert "(versions)" in continued(run, capsys)


@pytest.mark.fault(row=21, mutation=True)
def test_a_worker_that_ignores_its_code_would_be_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    run = make(small_config(str(tmp_path)))
    monkeypatch.setattr(worker, "CODE", ())
    monkeypatch.setattr(identity, "git_state", lambda path: {"commit": "1" * 40, "dirty": False})
    assert continued(run, capsys) == ""
