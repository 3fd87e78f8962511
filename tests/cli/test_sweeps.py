"""A sweep: its jobs die in every way there is, its parent is killed, and the same command always gets to the end."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
from sweep_cases import SMALL, SWEEP, runs, states, sweep, table

from mhc_exp.analysis.rows import read_records
from mhc_exp.runs.directory import RunDirectory

FAULTS = {
    "raise": "ValueError: no luck today, key None",
    "sys.exit": "SystemExit: 9",
    "exit": "the worker ended with exit code 7",
    "kill": "killed by signal 9 (SIGKILL)",
    "segfault": "killed by signal 11 (SIGSEGV)",
    "memory limit": "Unable to allocate",
    "slow": "stopped, after launch.timeout=8 s",
    "term": None,
    "": None,
}
"""Fault of the job with this seed, and what status.json says of it."""
TIMES = ("seconds", "perf/step_seconds", "perf/tokens_per_second", "perf/peak_memory_bytes", "perf/mfu")


def stamps(run: RunDirectory) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.is_file()}


def rows(run: RunDirectory) -> list[dict]:
    return [{key: value for key, value in row.items() if key not in TIMES} for row in read_records(run.path).rows]


@pytest.mark.fault(row=15)
@pytest.mark.timeout(120)
def test_whatever_ends_a_job_the_others_finish_and_the_same_command_finishes_it(tmp_path: Path) -> None:
    many = (f"seed=range({len(FAULTS)})",)
    first = sweep(tmp_path, *many, "launch.timeout=8", FAULTS=",".join(FAULTS), FAULT_STEP="17")
    assert first.returncode == 1, first.stderr
    assert states(first.stdout) == ["failed"] * 6 + ["interrupted"] * 2 + ["done"]
    assert "8 of 9 are not done" in first.stdout
    for run, reason in zip(runs(tmp_path), FAULTS.values(), strict=True):
        assert (reason or "None") in str(run.status()["reason"]), run.path
    healthy = runs(tmp_path)[-1]
    before = stamps(healthy)

    again = sweep(tmp_path, *many)
    assert again.returncode == 0, again.stderr
    assert states(again.stdout) == ["done"] * 9
    assert "not done" not in again.stdout
    assert stamps(healthy) == before
    assert [run.status().get("attempt") for run in runs(tmp_path)] == [2] * 8 + [1]
    resumed = runs(tmp_path)[0]
    assert "resumes after step 10" in resumed.log_path.read_text()

    everything = {path: stamp for run in runs(tmp_path) for path, stamp in stamps(run).items()}
    third = sweep(tmp_path, *many)
    assert (third.returncode, table(third.stdout)) == (0, table(again.stdout))
    assert {path: stamp for run in runs(tmp_path) for path, stamp in stamps(run).items()} == everything


def test_the_command_of_a_line_runs_that_job_in_its_directory(tmp_path: Path) -> None:
    done = sweep(tmp_path, "seed=1,2", "tracking.tags=[a b,c]", FAULTS=",,raise", FAULT_STEP="3")
    assert states(done.stdout) == ["done", "failed"]
    command = shlex.split(table(done.stdout)[1][4])
    again = subprocess.run([*SWEEP, *command[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert again.returncode == 0, again.stderr
    assert [line[1:4] for line in table(again.stdout)] == [["done", *sweep_line(tmp_path, seed=2)]]
    assert len(runs(tmp_path)) == 2


def sweep_line(directory: Path, seed: int) -> list[str]:
    """Score and directory as the table shows them."""
    run = next(run for run in runs(directory) if run.config.seed == seed)
    return [f"{run.status()['score']:.4f}", str(run.path.relative_to(directory))]


@pytest.mark.fault(row=16)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("most", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_sweep_killed_again_and_again_ends_as_one_that_was_left_alone(tmp_path: Path, most: int) -> None:
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    alone.mkdir()
    killed.mkdir()
    many = ("seed=range(4)", "training.checkpoint_every=3")
    undisturbed = sweep(alone, *many)
    assert undisturbed.returncode == 0, undisturbed.stderr
    chance = random.Random(0)
    slow = {**os.environ, "STEP_SECONDS": "0.03"}
    kills = 0
    while kills < most:
        with subprocess.Popen(
            [*SWEEP, *SMALL, *many], cwd=killed, env=slow, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as parent:
            try:
                parent.wait(0.8 + chance.uniform(0, 1.0))
                break  # it got to the end
            except subprocess.TimeoutExpired:
                parent.kill()
                kills += 1
        if chance.random() < 0.5:  # and the worker it left behind
            kill_owners(killed)
    last = sweep(killed, *many)
    assert last.returncode == 0, last.stderr
    assert kills >= 3
    assert table(last.stdout) == table(undisturbed.stdout)
    assert [rows(run) for run in runs(killed)] == [rows(run) for run in runs(alone)]
    assert len(runs(killed)) == 4
    assert not list(killed.glob("runs/multirun/.new-*"))


def kill_owners(directory: Path) -> None:
    """SIGKILL to the workers of this directory that still live."""
    for path in directory.glob("runs/multirun/*/run.json"):
        run = RunDirectory.open(path.parent)
        if run.owner() is not None and (name := run.lock_path.read_text()):
            os.kill(json.loads(name)["pid"], signal.SIGKILL)


@pytest.mark.fault(row=17)
def test_the_same_sweep_typed_twice_trains_every_job_once(tmp_path: Path) -> None:
    command = [*SWEEP, *SMALL, "seed=range(2)"]
    both = [
        subprocess.Popen(
            command, cwd=tmp_path, env={**os.environ, "STEP_SECONDS": "0.02"}, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=90)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert table(outputs[0]) == table(outputs[1])
    assert [run.status()["attempt"] for run in runs(tmp_path)] == [1, 1]
