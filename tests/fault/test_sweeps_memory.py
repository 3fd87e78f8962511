"""Rows 30, and what rows 15 and 16 protect: memory that runs out in a step, jobs without a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness import ForkServer, configured, opened, rows, weights
from sweep_cases import runs, states, sweep

from mhc_exp.runs import launch
from mhc_exp.runs.directory import RunDirectory

LIMITED = """
import resource, sys
from mhc_exp.runs import worker
from mhc_exp.training import backends
make = backends.make_trainer
def made(*arguments):
    trainer = make(*arguments)
    update = trainer.step
    def step(number, batch, rate):
        if number == 15:
            with open("/proc/self/statm") as file:
                used = int(file.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**24, resource.RLIM_INFINITY))
            batch = type(batch)(*(array.repeat(100000, 0) for array in batch))
        update(number, batch, rate)
    trainer.step = step
    return trainer
backends.make_trainer = made
sys.exit(worker.main())
"""


@pytest.mark.fault(row=30)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_pytorch_that_runs_out_of_memory_has_failed_with_that_reason_and_keeps_its_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    config = configured(tmp_path, "variant=mhc")
    run = RunDirectory.create(config, sweep=None, command=["mhc_exp"])
    command = [sys.executable, "-c", LIMITED, str(run.path)]
    died = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ})
    assert died.returncode == 1, died.stderr
    assert run.status()["state"] == "failed"
    assert "memory" in run.status()["reason"].lower() or "allocate" in run.status()["reason"].lower()
    assert run.checkpoints.steps() == [10]


@pytest.mark.fault(row=30)
@pytest.mark.fault(row=15)
def test_a_job_out_of_memory_costs_the_sweep_that_job_alone(tmp_path: Path) -> None:
    done = sweep(tmp_path, "seed=0,1", FAULTS="memory limit,", FAULT_STEP="17")
    assert (done.returncode, states(done.stdout)) == (1, ["failed", "done"])
    assert "Unable to allocate" in runs(tmp_path)[0].status()["reason"]


@pytest.mark.fault(row=30, mutation=True)
@pytest.mark.fault(row=15, mutation=True)
def test_jobs_in_the_process_of_the_sweep_would_die_with_it(tmp_path: Path) -> None:
    """`launch=inline` is the protection switched off: what ends one job ends the sweep."""
    program = str(Path(__file__).with_name("inline_sweep.py"))
    words = ("-m", "backend=cpu", "depth=2", "dataset=increment", "training=smoke", "tracking=local", "launch=inline")
    environment = {**os.environ, "FAULTS": "exit,", "FAULT_STEP": "17"}
    command = [sys.executable, program, *words, "seed=0,1"]
    died = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert died.returncode == 7
    assert [run.config.seed for run in runs(tmp_path)] == [0]


@pytest.mark.fault(row=16, mutation=True)
def test_a_sweep_that_forgets_what_is_done_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(tmp_path)
    with_numpy(monkeypatch)
    assert launch.launch(config, sweep=None, command=[], multirun=False).state == "done"
    before = opened(config).status_path.stat().st_mtime_ns
    assert launch.launch(config, sweep=None, command=[], multirun=False).state == "skipped"
    assert opened(config).status_path.stat().st_mtime_ns == before
    monkeypatch.setattr(launch, "FINISHED", ())
    monkeypatch.setattr("mhc_exp.runs.directory.FINISHED", ())
    launch.launch(config, sweep=None, command=[], multirun=False)
    assert opened(config).status_path.stat().st_mtime_ns != before


def with_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of this process train with the test double of tests/cli."""
    from numpy_worker import NumpyTrainer

    from mhc_exp.training import backends

    monkeypatch.setattr(backends, "make_trainer", NumpyTrainer)


@pytest.mark.fault(row=20)
def test_a_run_killed_after_each_of_its_steps_ends_as_undisturbed(numpy_runs: ForkServer, quick_disk: Path) -> None:
    words = ("training.steps=8", "training.checkpoint_every=1", "training.log_every=1")
    straight = configured(quick_disk / "straight", *words)
    assert numpy_runs.run(straight).code == 0
    for step in range(1, 8):
        config = configured(quick_disk / str(step), *words)
        slow = {"slow_steps": [0.02]}
        assert numpy_runs.run(config, faults=slow, from_word=f"saved {step}", kill_after=0.0).code == -9
        assert numpy_runs.run(config).numbers("resumed")[0] >= step
        assert rows(config) == rows(straight)
        assert weights(config) == weights(straight)
