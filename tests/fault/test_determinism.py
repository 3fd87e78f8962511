"""Row 22: the same run in several processes is the same run, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import configured, rows, weights

from mhc_exp.config.schema import Config
from mhc_exp.runs.directory import RunDirectory

SIZE = ("variant=mhc", "model.width=64", "model.heads=4", "model.seq_len=32", "training.log_every=1")
WORKER = ("-m", "mhc_exp.runs.worker")
UNSTEADY = """
import os, sys
from mhc_exp.runs import worker
from mhc_exp.training import loop
rate = loop.learning_rate
loop.learning_rate = lambda *about: rate(*about) * (1 + 1e-9 * os.getpid())
sys.exit(worker.main())
"""


def trained(root: Path, words: tuple[str, ...], process: int, worker: tuple[str, ...] = WORKER) -> Config:
    config = configured(root / f"process{process}", *SIZE, *words)
    run = RunDirectory.create(config, sweep=None, command=["mhc_exp"])
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, *worker, str(run.path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return config


def same(runs: list[Config]) -> bool:
    content = {json.dumps([rows(run), *(part.hex() for part in weights(run).values())]) for run in runs}
    return len(content) == 1


@pytest.mark.slow
@pytest.mark.fault(row=22)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pytorch_in_three_processes_and_with_two_threads(
    tmp_path: Path, dtype: str, trials: Callable[[int], None]
) -> None:
    pytest.importorskip("torch")
    trials(6)
    by_threads = {}
    for threads in (1, 2):
        words = (f"backend.threads={threads}", f"backend.dtype={dtype}")
        runs = [trained(tmp_path / str(threads), words, number) for number in range(3)]
        assert same(runs)
        by_threads[threads] = rows(runs[0])
    assert by_threads[1][0].keys() == by_threads[2][0].keys()
    if dtype == "float32":
        pairs = zip(by_threads[1], by_threads[2], strict=True)
        assert max(abs(one.get("train/loss", 0) - two.get("train/loss", 0)) for one, two in pairs) <= 1e-6


@pytest.mark.slow
@pytest.mark.fault(row=22)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_mlx_in_three_processes(tmp_path: Path, dtype: str, trials: Callable[[int], None]) -> None:
    pytest.importorskip("mlx")
    trials(3)
    words = ("backend=mlx", f"backend.dtype={dtype}")
    assert same([trained(tmp_path, words, number) for number in range(3)])


@pytest.mark.slow
@pytest.mark.fault(row=22, mutation=True)
def test_a_learning_rate_that_knows_the_process_would_be_noticed(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    assert not same([trained(tmp_path, (), number, ("-c", UNSTEADY)) for number in range(2)])
