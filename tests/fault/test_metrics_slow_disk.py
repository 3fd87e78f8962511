"""Row 29: a disk whose fsync takes as long as many steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from harness import ForkServer, configured, opened, rows, weights

from mhc_exp.analysis.rows import read_records

WORDS = ("training.steps=12", "training.checkpoint_every=3", "training.log_every=1")
FSYNC = 0.1


def slow_run(server: ForkServer, root: Path, **more: list) -> list[str]:
    """What is wrong with a run on a slow disk: rows, weights, or a step that is said to have taken as long as fsync."""
    slow, straight = configured(root / "slow", *WORDS), configured(root / "straight", *WORDS)
    assert server.run(straight).code == 0
    assert server.run(slow, faults={"slow_fsync": [FSYNC], **more}).code == 0
    wrong = ["other rows"] * (rows(slow) != rows(straight)) + ["other weights"] * (weights(slow) != weights(straight))
    records = read_records(opened(slow).path)
    seconds = records.series("perf/step_seconds")[1]
    assert len(seconds) == 12
    wrong += [f"a step of {max(seconds)} s"] * (max(seconds) > FSYNC)
    wall = records.rows[-1]["seconds"]
    return wrong + [f"only {wall} s in all"] * (wall < 3 * 5 * FSYNC)


@pytest.mark.fault(row=29)
def test_waiting_for_the_disk_is_not_called_training(
    numpy_runs: ForkServer, quick_disk: Path, trials: Callable[[int], None]
) -> None:
    trials(4)
    assert slow_run(numpy_runs, quick_disk) == []


@pytest.mark.fault(row=29, mutation=True)
def test_a_clock_that_never_pauses_would_be_noticed(numpy_runs: ForkServer, quick_disk: Path) -> None:
    (wrong,) = slow_run(numpy_runs, quick_disk, busy_clock=[])
    assert wrong.startswith("a step of ")
