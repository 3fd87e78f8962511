"""Fork servers that several tests share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import ForkServer, fork_server


@pytest.fixture(scope="module")
def numpy_runs() -> Iterator[ForkServer]:
    """Runs of the trainer of `tests/cli/numpy_worker.py`: everything is real but the mathematics."""
    with fork_server("numpy") as server:
        yield server


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory in memory where there is one: a killed process loses nothing there either, and fsync is free."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path_factory.mktemp("memory")
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="mhc_exp-") as directory:
        yield Path(directory)


@pytest.fixture
def quick_disk(memory: Path) -> Path:
    """An empty directory in memory."""
    return Path(tempfile.mkdtemp(dir=memory))


@pytest.fixture
def trials(record_property: Callable[[str, object], None]) -> Callable[[int], None]:
    """Say how often the fault struck, for the table."""
    return lambda count: record_property("trials", count)
