"""The worker with a trainer of a few lines of numpy, and with a fault on request: FAULT=kill FAULT_STEP=7.

Run like `python -m mhc_exp.runs.worker`: `python numpy_worker.py RUN_DIRECTORY`. FAULTS=raise,,kill gives every seed
its own fault, at step FAULT_STEP. matplotlib counts as not installed.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from pathlib import Path

import numpy as np

if os.environ.get("FAULT") == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "pytest" not in sys.modules:  # a test that imports this file shares its process with tests that draw
    sys.modules["matplotlib"] = None  # type: ignore[assignment]

from mhc_exp.data.task import Batch
from mhc_exp.training.trainer import Evaluation, State, StepResult


def fault(kind: str) -> None:
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "kill both":  # the process that waits for this one, then this one
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "term":
        os.kill(os.getpid(), signal.SIGTERM)
    elif kind == "slow":
        signal.pause()  # until somebody asks it to stop
    elif kind == "segfault":
        ctypes.string_at(0)
    elif kind == "exit":
        os._exit(7)
    elif kind == "sys.exit":
        raise SystemExit(9)
    elif kind == "memory":
        raise MemoryError
    elif kind == "memory limit":
        resource.setrlimit(resource.RLIMIT_AS, (2**30, resource.RLIM_INFINITY))
        np.ones(2**28)  # 2 GiB
    elif kind == "raise":
        raise ValueError(f"no luck today, key {os.environ.get('WANDB_API_KEY')}")
    elif kind == "stubborn":  # ignores every request to stop
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        time.sleep(600)
    elif kind == "hang":
        time.sleep(600)


class NumpyTrainer:
    """Gradient descent with momentum on |w|^2, disturbed by the batches, so that data and order matter."""

    device = "numpy"
    connection_parameters = 0
    kernels = "eager"
    recompute = "none"
    asynchronous = False
    body_parameters = 4

    def __init__(self, config, vocab_size: int) -> None:
        self.w = np.full(4, 1.0 + config.seed, np.float32)
        self.m = np.zeros(4, np.float32)
        self.results: list[StepResult] = []
        faults = os.environ.get("FAULTS", "").split(",")
        self.fault = faults[config.seed] if config.seed < len(faults) else ""

    def step(self, step: int, batch: Batch, lr: float) -> None:
        if step == int(os.environ.get("FAULT_STEP", "0")):
            fault(self.fault or os.environ.get("FAULT", ""))
        time.sleep(float(os.environ.get("STEP_SECONDS", "0")))
        gradient = self.w + np.float32(batch.inputs.mean())
        loss = float("nan") if os.environ.get("FAULT") == f"nan at {step}" else float(np.square(self.w).sum())
        self.results.append(StepResult(step, loss, float(np.linalg.norm(gradient)), None, True))
        self.m = np.float32(0.9) * self.m + gradient
        self.w = self.w - np.float32(lr) * self.m

    def fetch(self, until: int | None = None) -> list[StepResult]:
        results, self.results = self.results, []
        return results

    def evaluate(self, batches: list[Batch]) -> Evaluation:
        return Evaluation(float(np.square(self.w).sum()), 0.0, 1)

    def diagnose(self, batch: Batch) -> None:
        return None

    def generate(self, prompt: np.ndarray, count: int, seed: int) -> np.ndarray:
        return np.zeros(count, np.int32)

    def state(self) -> State:
        return State({"w": self.w}, {"exp_avg.w": self.m})

    def load(self, state: State) -> None:
        self.w, self.m = state.model["w"], state.optimizer["exp_avg.w"]

    def peak_memory(self) -> None:
        return None


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    from mhc_exp.runs import worker
    from mhc_exp.training import backends

    backends.make_trainer = NumpyTrainer
    code = worker.main()
    if os.environ.get("SHOW_MODULES"):
        print("loaded:", *sorted({name.partition(".")[0] for name in sys.modules}))
    sys.exit(code)
