"""A process that trains two steps and prints how much memory they took: `python -m ... STARTED OVERRIDES...`."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import sys
from pathlib import Path

from mhc_exp.benchmarks.cases import Model, configuration
from mhc_exp.data import make_task
from mhc_exp.training.backends import make_trainer
from mhc_exp.training.trainer import Trainer

STATEMENT = Path("/proc/self/statm")


def main() -> None:
    """Print the bytes that were held before the steps, and the largest number during them, as JSON."""
    config = configuration(sys.argv[2:])
    if isinstance(config, str):
        sys.exit(config)
    task = make_task(config)
    model = Model(make_trainer(config, task.vocab_size), task.batch(0, config.training.batch_size))
    give_back_freed_memory()
    before = held(model.trainer)
    model.step()
    model.step()
    peak = model.trainer.peak_memory()
    assert peak is not None
    print(json.dumps({"before": before, "peak": peak}))


def give_back_freed_memory() -> None:
    """What the allocator keeps of building the model is not the step's, and would hide as much of it."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))


def held(trainer: Trainer) -> int:
    """Bytes in use: resident on a CPU with PyTorch, as `peak_memory` counts; else the largest number so far."""
    if trainer.device.startswith("cpu") and STATEMENT.exists():
        return int(STATEMENT.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    peak = trainer.peak_memory()
    assert peak is not None
    return peak


if __name__ == "__main__":
    main()
