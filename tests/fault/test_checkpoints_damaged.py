"""Row 7: runs whose newest checkpoint is damaged go on from the one before."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoint_cases import damage
from harness import ForkServer, configured, litter, opened, rows, weights

WORDS = ("training.steps=8", "training.checkpoint_every=1", "training.log_every=1")
UNTIL = 6


def broken_runs(server: ForkServer, root: Path, count: int, seed: int, faults: dict[str, list]) -> list[str]:
    """What is wrong with runs that died after step 6, had that checkpoint damaged, and were started again."""
    draw, wrong = random.Random(seed), []
    straight = configured(root / "straight", *WORDS)
    assert server.run(straight).code == 0
    for number in range(count):
        config = configured(root / str(number), *WORDS)
        died = server.run(config, faults={"slow_steps": [0.02]}, from_word=f"saved {UNTIL}", kill_after=0.0)
        newest = max(died.numbers("saved"))
        damage(opened(config).checkpoints.path(newest), draw)
        again = server.run(config, faults=faults)
        wrong += again.text("raised")
        if again.numbers("resumed") != [newest - 1] or litter(config) != [f".bad-step_{newest:08d}-0"]:
            wrong.append(f"run {number} resumed at {again.numbers('resumed')}, set aside {litter(config)}")
        elif rows(config) != rows(straight) or weights(config) != weights(straight):
            wrong.append(f"run {number} ends with other numbers")
    return wrong


@pytest.mark.fault(row=7)
def test_12_runs_with_a_damaged_checkpoint_end_as_undisturbed_seed_5(
    numpy_runs: ForkServer, quick_disk: Path, trials: Callable[[int], None]
) -> None:
    trials(12)
    assert broken_runs(numpy_runs, quick_disk, 12, 5, {}) == []


@pytest.mark.fault(row=7, mutation=True)
def test_believing_what_is_read_would_be_noticed_seed_5(numpy_runs: ForkServer, quick_disk: Path) -> None:
    assert broken_runs(numpy_runs, quick_disk, 4, 5, {"trusting": []})
