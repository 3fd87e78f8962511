"""The worker with a trainer of numpy, a tracker, and what is done to either: `python tracked_worker.py RUN_DIRECTORY`.

FAULT names a function below; without it nothing is done.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))

import numpy_worker

from mhc_exp.runs import worker
from mhc_exp.sinks.wandb import WandbSink
from mhc_exp.training import backends

FAULT_STEP = 10


def service() -> int:
    """Process id of wandb-core, as soon as rows are sent to it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if any(sink._where for sink in SINKS):
            return sys.modules["wandb"].setup()._connection._proc._process.pid
        time.sleep(0.02)
    raise AssertionError("wandb has not started")


SINKS: list[WandbSink] = []


def kill_service() -> None:
    os.kill(service(), signal.SIGKILL)
    time.sleep(0.2)


def stop_service() -> None:
    os.kill(service(), signal.SIGSTOP)


def wait_in_the_loop() -> None:
    """The protection switched off: every row waits until the tracker has begun, or given up."""
    log = WandbSink.log

    def waiting(sink: WandbSink, row: Any) -> None:
        log(sink, row)
        while sink._thread is not None and sink._thread.is_alive() and not sink._where:
            time.sleep(0.01)

    WandbSink.log = waiting  # type: ignore[method-assign]


class Trainer(numpy_worker.NumpyTrainer):
    def step(self, step: int, batch: Any, lr: float) -> None:
        if step == FAULT_STEP and ACT in ("kill_service", "stop_service"):
            globals()[ACT]()
        super().step(step, batch, lr)


def remember(method: Any) -> Any:
    def opened(sink: WandbSink, *arguments: Any) -> None:
        SINKS.append(sink)
        method(sink, *arguments)

    return opened


ACT = os.environ.pop("ACT", "")

if __name__ == "__main__":
    WandbSink.open = remember(WandbSink.open)  # type: ignore[method-assign]
    if ACT == "wait_in_the_loop":
        wait_in_the_loop()
    backends.make_trainer = Trainer
    sys.exit(worker.main())
