"""A run on disk: one directory, one identity, one owner; and what happens when the same command comes again."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys

import pytest
import yaml
from run_cases import FailingDisk, go, make, small_config

from mhc_exp.config.build import as_mapping
from mhc_exp.config.naming import config_hash
from mhc_exp.config.schema import Config
from mhc_exp.runs import identity
from mhc_exp.runs.directory import RunDirectory, RunRefused


@pytest.fixture
def config(tmp_path) -> Config:
    return small_config(str(tmp_path / "runs"))


# --- directory and identity --------------------------------------------------------------------------------------


def test_a_run_lies_below_its_sweep_or_below_single(config, tmp_path):
    assert make(config).path.parent == tmp_path / "runs" / "single"
    assert make(config, "depth").path.parent == tmp_path / "runs" / "depth"


def test_run_json_and_config_yaml_hold_the_whole_configuration(config):
    run = make(config)
    assert json.loads((run.path / "run.json").read_text())["config"] == as_mapping(config)
    assert yaml.safe_load((run.path / "config.yaml").read_text()) == as_mapping(config)
    again = RunDirectory.open(run.path)
    assert again.config == config
    assert again.identity == run.identity


def test_identity_says_what_ran_and_where(config):
    facts = make(config).identity
    assert facts["config_hash"] == config_hash(config)
    assert facts["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts["versions"]["numpy"]
    assert facts["packages"]["numpy"] == facts["versions"]["numpy"]
    assert facts["cpus"] >= 1
    assert facts["command"] == ["mhc_exp", "depth=2"]
    assert set(facts) >= {"git", "platform", "machine", "hostname", "created", "wandb_id", "sweep", "name"}


def test_packages_are_those_of_pip_freeze():
    from importlib.metadata import distributions

    known = {
        dist.metadata["Name"].lower().replace("_", "-").replace(".", "-"): dist.version for dist in distributions()
    }
    found = {name.replace(".", "-"): version for name, version in identity.installed().items()}
    assert len(found) > 20
    assert found == {name: version for name, version in known.items() if name in found}
    assert not {name for name in known.keys() - found.keys() if not name.startswith("mhc")}


def test_versions_are_known_without_importing_the_packages():
    code = "import sys; from mhc_exp.runs.identity import versions; versions(); print([*sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not any(f"'{name}'" in loaded for name in ("torch", "mlx", "hydra", "wandb"))


def test_git_state_of_a_checkout_and_of_an_installed_package(tmp_path):
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    assert identity.git_state(tmp_path) is None
    git("init")
    assert identity.git_state(tmp_path) is None  # no commit yet
    (tmp_path / "code.py").write_text("1")
    git("add", "code.py")
    git("commit", "-m", "one")
    state = identity.git_state(tmp_path)
    assert state is not None
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    (tmp_path / "code.py").write_text("2")
    assert identity.git_state(tmp_path) == {**state, "dirty": True}
    inside = tmp_path / "venv" / "site-packages"
    inside.mkdir(parents=True)
    assert identity.git_state(inside) is None


def test_facts_learned_later_are_added_to_run_json(config):
    run = make(config)
    run.add_facts(device="cpu", initial_weights="abc")
    assert RunDirectory.open(run.path).identity == run.identity
    assert run.identity["device"] == "cpu"


def test_a_directory_appears_complete_or_not_at_all(tmp_path, monkeypatch):
    n = calls = 0
    while n <= calls:
        n += 1
        config = small_config(str(tmp_path / f"runs{n}"))
        disk = FailingDisk(n, persistent=True)
        monkeypatch.setattr("mhc_exp.runs.directory.Disk", lambda disk=disk: disk)
        with contextlib.suppress(OSError):
            make(config)
        calls = disk.calls
        path = RunDirectory.location(config, None)
        assert os.listdir(path.parent) in ([], [path.name])
        if path.exists():
            assert RunDirectory.open(path).config == config
    assert n > 8


def test_what_a_dead_process_left_half_made_is_removed(config):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    path = RunDirectory.location(config, None)
    half = path.with_name(f".new-{path.name}-{ended.pid}")
    half.mkdir(parents=True)
    make(config)
    assert os.listdir(path.parent) == [path.name]


def test_a_directory_that_is_there_is_never_replaced(config):
    run = make(config)
    run.update_status("running", step=5)
    with pytest.raises(FileExistsError):
        make(config)
    assert os.listdir(run.path.parent) == [run.name]
    assert run.status()["step"] == 5


@pytest.mark.fault(row=25)
@pytest.mark.parametrize("sweep", ["..", "../evil", "a/b", "/etc", "a\x00b", "", " ", ".hidden", "x" * 121, "a..b"])
def test_no_sweep_name_leads_out_of_the_root(config, tmp_path, sweep):
    if sweep == "":
        assert RunDirectory.location(config, sweep).parent.name == "single"
        return
    result = go(config, sweep=sweep)
    assert (result.state, result.exit_code) == ("refused", 2)
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("name", ["../evil", "a/b", "..", "a\nb"])
def test_no_run_name_leads_out_of_the_root(config, tmp_path, name):
    result = go(dataclasses.replace(config, name=name))
    assert result.exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault(row=25)
def test_a_linked_run_or_sweep_directory_is_refused(config, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    run = make(config, "real")
    run.path.rename(elsewhere)
    run.path.symlink_to(elsewhere)
    assert "symbolic link" in go(config, sweep="real").message
    with pytest.raises(RunRefused, match="symbolic link"):
        RunDirectory.open(run.path)
    (tmp_path / "runs" / "linked").symlink_to(tmp_path / "runs" / "real")
    assert "symbolic link" in go(config, sweep="linked").message


def test_the_root_itself_may_be_a_link_to_a_bigger_disk(tmp_path):
    (tmp_path / "big").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "big")
    run = make(small_config(str(tmp_path / "runs")))
    assert run.path.is_relative_to(tmp_path / "big")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"config": {}}'])
def test_a_damaged_run_json_is_refused_and_named(config, content):
    run = make(config)
    (run.path / "run.json").write_text(content)
    result = go(config)
    assert result.exit_code == 2
    assert str(run.path) in result.message


def test_a_directory_that_is_no_run_is_refused(config):
    path = RunDirectory.location(config, None)
    path.mkdir(parents=True)
    (path / "thesis.tex").write_text("chapter 1")
    result = go(config)
    assert (result.exit_code, "no run.json" in result.message) == (2, True)
    assert os.listdir(path) == ["thesis.tex"]
