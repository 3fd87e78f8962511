"""Runs for tests of launch and worker: small configurations, the worker as a process, and what it left behind."""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from mhc_exp.analysis.rows import read_records
from mhc_exp.config.compose import compose
from mhc_exp.config.schema import Config
from mhc_exp.runs.directory import RunDirectory
from mhc_exp.runs.launch import Result, launch

NUMPY_WORKER = [sys.executable, "-X", "faulthandler", str(Path(__file__).with_name("numpy_worker.py"))]
TORCH_WORKER = [sys.executable, "-m", "mhc_exp.runs.worker"]
KEY = "ca11ab1e" * 5
TIMES = ("seconds", "perf/step_seconds", "perf/tokens_per_second", "perf/peak_memory_bytes", "perf/mfu")


@functools.cache
def composed(*overrides: str) -> Config:
    return compose(
        [
            *("backend=cpu", "backend.threads=1", "depth=2", "dataset=increment"),
            *("model.width=16", "model.heads=2", "model.seq_len=8", "training=smoke", "tracking=local"),
            *("launch=process", *overrides),
        ]
    )


def configured(root: Path, *overrides: str) -> Config:
    return dataclasses.replace(composed(*overrides), runs_root=str(root))


def go(config: Config, **options) -> Result:
    return launch(config, sweep=None, command=["mhc_exp"], **{"multirun": False, **options})


def opened(config: Config) -> RunDirectory:
    return RunDirectory.open(RunDirectory.location(config, None))


def made(config: Config) -> RunDirectory:
    return RunDirectory.create(config, sweep=None, command=["mhc_exp"])


def work(run: RunDirectory, worker: list[str] = NUMPY_WORKER, **variables: str) -> subprocess.CompletedProcess[str]:
    """The worker in a process, as torchrun or Slurm would start it."""
    environment = {**os.environ, **variables}
    return subprocess.run([*worker, str(run.path)], capture_output=True, text=True, env=environment, timeout=120)


def rows(run: RunDirectory) -> list[dict]:
    """Rows without what a clock decides."""
    return [{k: v for k, v in row.items() if k not in TIMES} for row in read_records(run.path).rows]


def weights(run: RunDirectory, step: int = 20) -> dict[str, bytes]:
    """The files of a checkpoint, byte for byte."""
    path = run.checkpoints.path(step)
    return {name: (path / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")}


def when_logged(run_path: Path, text: str, act) -> threading.Thread:
    """Do `act` from another thread as soon as train.log of the run contains `text`."""

    def watch() -> None:
        log = run_path / "train.log"
        while not (log.exists() and text in log.read_text()):
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread
