"""Rows 10 and 28: a process that stands still for a while, and clocks that are set back."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest
from harness import configured, opened, rows, weights

from mhc_exp.analysis.rows import read_records
from mhc_exp.config.schema import Config
from mhc_exp.runs.directory import RunDirectory

HERE = Path(__file__).parent
NUMPY_WORKER = [sys.executable, str(HERE.parent / "cli" / "numpy_worker.py")]
TORCH_WORKER = [sys.executable, "-m", "mhc_exp.runs.worker"]
WORDS = ("training.steps=30", "training.checkpoint_every=10", "training.log_every=1")


def start(config: Config, worker: list[str] = NUMPY_WORKER, **variables: str) -> subprocess.Popen[bytes]:
    run = RunDirectory.create(config, sweep=None, command=["mhc_exp"])
    environment = {**os.environ, "STEP_SECONDS": "0.02", **variables}
    command = [*worker, str(run.path)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for_row(config: Config, step: int) -> None:
    path, deadline = RunDirectory.location(config, None), time.monotonic() + 120
    while read_records(path).rows[-1:] == [] or read_records(path).rows[-1]["step"] < step:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alike(config: Config, other: Config) -> bool:
    return rows(config) == rows(other) and weights(config) == weights(other)


# --- standing still ----------------------------------------------------------------------------------------------


def stopped(config: Config, worker: list[str], seconds: float) -> int:
    """A run that stands still for `seconds` in the middle; returns its exit code."""
    with start(config, worker) as process:
        wait_for_row(config, 12)
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        before = opened(config).metrics_path.stat().st_size
        time.sleep(seconds)
        assert opened(config).metrics_path.stat().st_size == before
        process.send_signal(signal.SIGCONT)
        return process.wait(120)


@pytest.mark.fault(row=10)
def test_a_run_that_stood_still_for_a_second_has_the_same_numbers(tmp_path: Path) -> None:
    config, straight = configured(tmp_path / "stopped", *WORDS), configured(tmp_path / "straight", *WORDS)
    assert stopped(config, NUMPY_WORKER, 1.0) == 0
    assert start(straight).wait(60) == 0
    assert alike(config, straight)
    assert max(read_records(opened(config).path).series("perf/step_seconds")[1]) > 1.0  # the row says that it stood


@pytest.mark.slow
@pytest.mark.fault(row=10)
def test_a_pytorch_run_that_stood_still_for_10_seconds_has_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    words = ("training.steps=200", "training.log_every=1", "variant=mhc", "tracking=wandb", "tracking.wandb=offline")
    config, straight = configured(tmp_path / "stopped", *words), configured(tmp_path / "straight", *words)
    assert stopped(config, TORCH_WORKER, 10.0) == 0
    assert start(straight, TORCH_WORKER).wait(200) == 0
    assert alike(config, straight)


@pytest.mark.fault(row=10, mutation=True)
def test_a_limit_that_counts_standing_still_would_be_noticed(tmp_path: Path) -> None:
    """A limit that someone asked for (launch.timeout) does count it: such a run ends early, and is not alike."""
    config = configured(tmp_path, *WORDS)
    with start(config) as process:
        wait_for_row(config, 12)
        process.send_signal(signal.SIGSTOP)
        process.terminate()
        process.send_signal(signal.SIGCONT)
        assert process.wait(60) == 143
    assert rows(config)[-1]["step"] < 30


# --- clocks ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A library that sets the clock of a process back."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux and a C compiler")
    library = tmp_path_factory.mktemp("shim") / "clock_shim.so"
    source = str(HERE / "clock_shim.c")
    subprocess.run([compiler, "-shared", "-fPIC", source, "-o", str(library), "-ldl"], check=True)
    return str(library)


def set_back(config: Config, shim: str, **variables: str) -> list[dict]:
    """Rows of a run whose clock goes back an hour in the middle."""
    back = Path(config.runs_root).with_suffix(".back")
    with start(config, LD_PRELOAD=shim, CLOCK_BACK=str(back), **variables) as process:
        wait_for_row(config, 12)
        back.touch()
        assert process.wait(60) == 0
    return read_records(opened(config).path).rows


def ascending(values: list[float]) -> bool:
    return all(one <= other for one, other in pairwise(values))


@pytest.mark.fault(row=28)
def test_a_clock_set_back_an_hour_makes_no_duration_negative(tmp_path: Path, shim: str) -> None:
    config, straight = configured(tmp_path / "back", *WORDS), configured(tmp_path / "straight", *WORDS)
    found = set_back(config, shim, TZ="America/New_York")
    assert [row["step"] for row in found] == list(range(31))
    assert ascending([row["seconds"] for row in found])
    assert all(0 <= row["perf/step_seconds"] < 60 for row in found[1:])
    assert found[-1]["seconds"] < 60
    status = opened(config).status()
    started, ended = (datetime.fromisoformat(status[name]) for name in ("started", "ended"))
    assert started.utcoffset() == ended.utcoffset() == datetime.fromisoformat("2026-01-01T00:00+00:00").utcoffset()
    assert (ended - started).total_seconds() < -3000  # the clock was set back indeed
    assert start(straight).wait(60) == 0
    assert alike(config, straight)


@pytest.mark.fault(row=28, mutation=True)
def test_measuring_with_a_clock_that_people_set_would_be_noticed(tmp_path: Path, shim: str) -> None:
    found = set_back(configured(tmp_path / "back", *WORDS), shim, MONOTONIC_TOO="1")
    assert not ascending([row["seconds"] for row in found])
