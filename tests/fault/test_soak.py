"""Row 32: long runs whose memory, file descriptors and disk are watched from outside."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from harness import configured, opened

from mhc_exp.config.schema import Config
from mhc_exp.runs.directory import RunDirectory

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

NUMPY_WORKER = (str(Path(__file__).parents[1] / "cli" / "numpy_worker.py"),)
TORCH_WORKER = ("-m", "mhc_exp.runs.worker")
PAGE = resource.getpagesize()
GROWTH = 5e6
LEAKING = """
import os, sys
sys.path.insert(0, {directory!r})
import numpy_worker
from mhc_exp.runs import worker
from mhc_exp.training import backends
kept = []
class Leaking(numpy_worker.NumpyTrainer):
    def step(self, step, batch, lr):
        super().step(step, batch, lr)
        kept.append(os.dup(1) if {what!r} == "descriptors" and step % 1000 == 0 else bytearray(1000))
backends.make_trainer = Leaking
sys.exit(worker.main())
"""


@dataclass
class Watched:
    """What was seen of a run between its warm-up and its end, every quarter of a second."""

    memory: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    checkpoints: list[int] = field(default_factory=list)

    def look(self, process: int, run: RunDirectory) -> None:
        try:
            resident = int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE
            descriptors = len(os.listdir(f"/proc/{process}/fd"))
        except OSError:
            return
        if run.status()["state"] == "running":  # then what was read is of training
            self.memory.append(resident)
            self.descriptors.append(descriptors)
            self.checkpoints.append(len(run.checkpoints.steps()))

    def problems(self, keep: int) -> list[str]:
        settled = len(self.memory) // 4
        grown = max(self.memory[settled:]) - self.memory[settled]
        wrong = [f"{grown / 1e6:.1f} MB more memory"] * (grown > GROWTH)
        most = max(self.descriptors[settled:]) - self.descriptors[settled]
        wrong += [f"{most} more descriptors"] * (most > 2)  # a file that is being written
        return wrong + [f"{max(self.checkpoints)} checkpoints"] * (max(self.checkpoints) > keep + 1)


def watch(config: Config, worker: tuple[str, ...], interval: float = 0.25) -> Watched:
    run = RunDirectory.create(config, sweep=None, command=["mhc_exp"])
    watched = Watched()
    command = [sys.executable, *worker, str(run.path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            watched.look(process.pid, run)
            time.sleep(interval)
    assert process.returncode == 0
    assert len(watched.memory) > 8
    assert opened(config).checkpoints.steps()[-config.training.keep_checkpoints :] == opened(config).checkpoints.steps()
    return watched


def long_run(root: Path, steps: int, checkpoint_every: int, *words: str) -> Config:
    every = (f"training.steps={steps}", f"training.checkpoint_every={checkpoint_every}")
    return configured(root, *every, "training.log_every=1", f"training.eval_every={steps}", *words)


@pytest.mark.slow
@pytest.mark.fault(row=32)
def test_20000_rows_and_100_checkpoints(quick_disk: Path, trials: Callable[[int], None]) -> None:
    trials(1)
    config = long_run(quick_disk, 20_000, 200)
    assert watch(config, NUMPY_WORKER, 0.1).problems(config.training.keep_checkpoints) == []


@pytest.mark.slow
@pytest.mark.fault(row=32, mutation=True)
@pytest.mark.parametrize("what", ["memory", "descriptors"])
def test_a_leak_would_be_noticed(quick_disk: Path, what: str) -> None:
    program = LEAKING.format(directory=str(Path(__file__).parents[1] / "cli"), what=what)
    watched = watch(long_run(quick_disk, 20_000, 2000), ("-c", program), 0.1)
    assert any(what.rstrip("s") in problem for problem in watched.problems(9))


@pytest.mark.soak
@pytest.mark.fault(row=32)
@pytest.mark.timeout(3600)
def test_a_million_rows_and_a_thousand_checkpoints(tmp_path: Path) -> None:
    config = long_run(tmp_path, 1_000_000, 1000)
    watched = watch(config, NUMPY_WORKER)
    print(f"memory from {watched.memory[len(watched.memory) // 4] / 1e6:.1f} to {watched.memory[-1] / 1e6:.1f} MB")
    assert watched.problems(config.training.keep_checkpoints) == []


@pytest.mark.soak
@pytest.mark.fault(row=32)
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("backend", "steps"), [("cpu", 20_000), ("mlx", 4_000)])
def test_a_hundred_checkpoints_of_a_real_trainer(tmp_path: Path, backend: str, steps: int) -> None:
    """MLX takes fewer steps because one takes ten times as long on Linux."""
    pytest.importorskip("mlx" if backend == "mlx" else "torch")
    config = long_run(
        tmp_path, steps, steps // 100, f"backend={backend}", "variant=mhc", f"training.metrics_every={steps // 200}"
    )
    watched = watch(config, TORCH_WORKER)
    print(f"memory from {watched.memory[len(watched.memory) // 4] / 1e6:.1f} to {watched.memory[-1] / 1e6:.1f} MB")
    assert watched.problems(config.training.keep_checkpoints) == []
