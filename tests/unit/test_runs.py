"""A run on disk: one directory, one identity, one owner; and what happens when the same command comes again."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from run_cases import FailingDisk, go, make, small_config

from mhc_exp.config.build import as_mapping
from mhc_exp.config.naming import config_hash
from mhc_exp.config.schema import Config
from mhc_exp.runs import identity, lock
from mhc_exp.runs.directory import RunDirectory, RunRefused
from mhc_exp.runs.disk import Disk
from mhc_exp.runs.redaction import redact, redact_command
from mhc_exp.runs.tee import teed
from mhc_exp.threads import thread_limit

SECRET = "c0ffee" * 6 + "cafe"


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


# --- status ------------------------------------------------------------------------------------------------------


def test_status_is_remembered_field_by_field(config):
    run = make(config)
    assert run.status()["state"] == "created"
    assert run.update_status("running", step=3)
    assert run.update_status(score=1.5)
    status = RunDirectory.open(run.path).status()
    assert (status["state"], status["step"], status["score"]) == ("running", 3, 1.5)


def test_a_reader_never_sees_half_a_status(config):
    run = make(config)
    run.update_status("running", step=0)
    stop, seen = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            seen.append(RunDirectory.open(run.path).status()["state"])

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(60):
        run.update_status(step=step, padding="x" * (step * 50))
    stop.set()
    reader.join()
    assert set(seen) == {"running"}


@pytest.mark.parametrize("n", range(1, 5))
def test_a_full_disk_keeps_the_old_status_is_said_once_and_ends_nothing(config, capsys, n):
    run = make(config)
    run.update_status("running", step=1)
    run._disk = FailingDisk(n, persistent=True)
    assert [run.update_status(step=2), run.update_status(step=3)] == [False, False]
    assert run.status()["step"] == 1
    assert capsys.readouterr().err.count("cannot be written") == 1
    assert not [name for name in os.listdir(run.path) if name.startswith(".tmp")]


@pytest.mark.parametrize("content", ["", '{"state": "do', "[1]", '{"step": 4}'])
def test_a_damaged_status_counts_as_an_unfinished_run(config, content):
    run = make(config)
    run.status_path.write_text(content)
    assert run.status()["state"] == "failed"


# --- lock --------------------------------------------------------------------------------------------------------

OWNER = """
import sys, time
from pathlib import Path
from mhc_exp.runs import lock
with lock.hold(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def other_owner(path: Path):
    process = subprocess.Popen([sys.executable, "-c", OWNER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "mine\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.fault(row=17)
def test_a_second_process_is_refused_and_told_who_the_owner_is(config):
    run = make(config)
    with other_owner(run.lock_path) as owner:
        with pytest.raises(lock.Locked, match=f"process {owner.pid} on "), lock.hold(run.lock_path, patience=0):
            pass
        result = go(config)
        assert (result.state, result.exit_code) == ("refused", 2)
        assert f"process {owner.pid} on " in result.message


@pytest.mark.fault(row=18)
def test_the_lock_of_a_killed_owner_is_free_at_once(config):
    run = make(config)
    with other_owner(run.lock_path) as owner:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        assert lock.holder(run.lock_path) is None
        with lock.hold(run.lock_path, patience=0):
            pass


def test_a_glance_at_the_lock_does_not_make_its_next_owner_fail(config):
    run = make(config)
    stop = threading.Event()

    def glance() -> None:
        while not stop.is_set():
            run.owner()
            time.sleep(0.0002)

    onlooker = threading.Thread(target=glance)
    onlooker.start()
    try:
        for _ in range(100):
            with run.lock():
                pass
    finally:
        stop.set()
        onlooker.join()


def test_a_lock_is_taken_even_if_the_full_disk_cannot_hold_the_owner_s_name(config, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    run = make(config)
    monkeypatch.setattr(os, "pwrite", full)
    with run.lock():
        assert run.owner() is not None


# --- console and secrets -----------------------------------------------------------------------------------------


def test_what_is_printed_also_goes_to_the_log_without_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stdout", screen)
    with teed(tmp_path / "train.log"):
        print("key", SECRET, "end")
        print("no newline", end="")
    assert screen.getvalue() == "key *** end\nno newline"
    assert (tmp_path / "train.log").read_text() == "key *** end\nno newline\n"


def test_a_closed_terminal_does_not_stop_the_log(tmp_path, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stdout", screen)
    with teed(tmp_path / "train.log"):
        screen.close()
        print("still here")
    assert (tmp_path / "train.log").read_text() == "still here\n"


def test_secrets_are_masked_in_commands_and_ordinary_keys_are_not(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    command = ["m", "--api-key", "k1", "api_key=k2", "x.password=k3", f"hello={SECRET}", "https://me:pw@host/x"]
    kept = ["training.tokens=1000", "dataset.tokenizer=bpe", "optimizer.lr=1e-3", "key_words=a", "-m"]
    shown = redact_command([*command, *kept])
    assert shown[-5:] == kept
    assert not any(secret in " ".join(shown) for secret in ("k1", "k2", "k3", SECRET, "pw"))
    assert redact(f"a {SECRET} b") == "a *** b"


def test_short_values_of_the_environment_do_not_blank_ordinary_text(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "1")
    assert redact("step 1 of 11") == "step 1 of 11"


def test_threads_are_set_for_the_block_alone(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with thread_limit(3):
        assert (os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]) == ("3", "3")
    with thread_limit(None):
        assert os.environ["OMP_NUM_THREADS"] == "7"
        assert int(os.environ["MKL_NUM_THREADS"]) >= 1
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


def test_replacing_a_file_leaves_the_old_or_the_new_content_at_every_error(tmp_path):
    file = tmp_path / "f"
    for n in range(1, 20):
        Disk().replace_durably(file, b"old")
        disk = FailingDisk(n)
        with contextlib.suppress(OSError):
            disk.replace_durably(file, b"new")
        assert file.read_bytes() in (b"old", b"new")
        assert os.listdir(tmp_path) == ["f"]
        if disk.calls < n:
            assert file.read_bytes() == b"new"
            break
    assert n > 5
