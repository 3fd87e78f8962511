"""Status and lock of a run directory: what a reader sees, and who may write."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from run_cases import FailingDisk, go, make, small_config

from mhc_exp.config.schema import Config
from mhc_exp.runs import lock
from mhc_exp.runs.directory import RunDirectory
from mhc_exp.runs.disk import Disk
from mhc_exp.runs.redaction import redact, redact_command
from mhc_exp.runs.tee import teed
from mhc_exp.threads import thread_limit

SECRET = "c0ffee" * 6 + "cafe"


@pytest.fixture
def config(tmp_path) -> Config:
    return small_config(str(tmp_path / "runs"))


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
