"""CPU threads of the worker: set in the environment before numpy, torch or MLX read it. Standard library only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from mhc_exp.environment import environment

SMALL_WIDTH = 256
"""Below this width one thread is as fast as two, and safe from other processes (docs/design.md)."""

_WAITING = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}
"""OpenMP threads sleep at barriers: spinning costs a scheduler quantum (8 ms) whenever another process runs."""

_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def usable_cpus() -> int:
    """Cores this process may run on (fewer than the machine has in a container or under taskset)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_count(threads: int | None, width: int) -> int | None:
    """Threads of a run: as configured (`backend.threads`), else one for a small model, else None for every core."""
    return 1 if threads is None and width < SMALL_WIDTH else threads


@contextlib.contextmanager
def thread_limit(threads: int | None) -> Iterator[None]:
    """`threads` for the block; None means every usable core, unless the environment already says something else."""
    wanted = {name: os.environ.get(name, value) for name, value in _WAITING.items()}
    for name in _VARIABLES:
        keep = os.environ.get(name) if threads is None else None
        wanted[name] = keep or str(threads or usable_cpus())
    with environment(wanted):
        yield
