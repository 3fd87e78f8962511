"""The same command again: skip what is done, refuse what conflicts, take up what is unfinished."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from run_cases import go, make, small_config, state_of

from mhc_exp.config.build import as_mapping
from mhc_exp.config.schema import Config
from mhc_exp.runs.directory import RunDirectory


@pytest.fixture
def config(tmp_path) -> Config:
    return small_config(str(tmp_path / "runs"))


def test_a_finished_run_is_skipped_with_its_stored_score(config):
    run = make(config)
    run.update_status("done", step=20, score=1.25)
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    result = go(config)
    assert (result.state, result.score, result.exit_code, result.path) == ("skipped", 1.25, 0, run.path)
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before


def test_a_diverged_run_is_a_result_and_is_not_trained_again(config):
    make(config).update_status("diverged", step=7, score=None)
    result = go(config)
    assert (result.state, result.exit_code) == ("diverged", 3)
    assert "step 7" in result.message


@pytest.mark.fault(row=21)
def test_another_experiment_under_the_same_name_is_refused_key_by_key(config):
    run = make(dataclasses.replace(config, name="mine"))
    run.update_status("done", score=1.0)
    other = dataclasses.replace(
        config,
        name="mine",
        depth=3,
        optimizer=dataclasses.replace(config.optimizer, lr=0.5),
        runs_root=config.runs_root,
    )
    result = go(other)
    assert (result.state, result.exit_code) == ("refused", 2)
    assert "depth: 2 there, 3 here" in result.message
    assert f"optimizer.lr: {config.optimizer.lr} there, 0.5 here" in result.message
    assert "seed" not in result.message
    assert "name=mine-2" in result.message


def test_another_tracker_is_not_another_experiment(config, monkeypatch):
    make(config)
    monkeypatch.setattr("mhc_exp.runs.worker.work", lambda run: 1)
    tags = dataclasses.replace(config.tracking, tags=["again"])
    go(dataclasses.replace(config, tracking=tags))
    run = RunDirectory.open(RunDirectory.location(config, None))
    assert run.config.tracking.tags == ["again"]
    assert "again" in (run.path / "config.yaml").read_text()


@pytest.mark.parametrize("state", ["created", "running", "failed", "interrupted"])
def test_an_unfinished_run_is_taken_up_again(config, monkeypatch, state):
    make(config).update_status(state, step=5)
    taken: list[Path] = []
    monkeypatch.setattr("mhc_exp.runs.worker.work", lambda run: taken.append(run.path) or 0)
    go(config)
    assert taken == [RunDirectory.location(config, None)]


@pytest.mark.parametrize(
    ("mode", "multirun", "child"),
    [("auto", False, False), ("auto", True, True), ("inline", True, False), ("process", False, True)],
)
def test_which_process_trains(config, monkeypatch, mode, multirun, child):
    used: list[str] = []
    monkeypatch.setattr("mhc_exp.runs.worker.work", lambda run: used.append("inline") or 0)
    monkeypatch.setattr("mhc_exp.runs.child.train_in_child", lambda run, timeout, heard: used.append("child") or 0)
    go(dataclasses.replace(config, launch=dataclasses.replace(config.launch, mode=mode)), multirun=multirun)
    assert used == ["child" if child else "inline"]


def test_a_place_that_cannot_be_written_is_refused_and_nothing_is_made(tmp_path, monkeypatch):
    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    result = go(small_config(str(tmp_path / "a" / "b")))
    assert (result.state, result.exit_code) == ("refused", 2)
    assert "Read-only file system" in result.message
    assert "runs_root=" in result.message
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_is_refused_before_anything_is_made(config, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    result = go(config)
    assert result.exit_code == 2
    assert "0 MB free" in result.message
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_of_a_run_say_which_experiment_and_wiring_they_are_of(config):
    run = make(config)
    run.checkpoints.save(1, state_of(1), {})
    found = RunDirectory.open(run.path).checkpoints.newest()
    assert found is not None
    assert found.facts == {"config_hash": run.identity["config_hash"], "variant": as_mapping(config)["variant"]}
