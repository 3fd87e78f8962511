"""Row 1: trainers that are killed again and again end as if nothing had happened."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from harness import Answer, ForkServer, configured, fork_server, litter, rows, weights

from mhc_exp.analysis.rows import read_records
from mhc_exp.config.schema import Config
from mhc_exp.runs.directory import RunDirectory

STEPS = ("training.steps=20", "training.checkpoint_every=1", "training.log_every=1", "variant=mhc")


@dataclass
class Tally:
    """What was acknowledged in one run, and what broke."""

    saved: int = 0
    rows: set[int] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)

    def add(self, answer: Answer, config: Config) -> None:
        for resumed in answer.numbers("resumed"):
            if resumed < self.saved:
                self.broken.append(f"step {self.saved} was acknowledged, resumed at {resumed}")
        self.broken += answer.text("raised")
        self.saved = max([self.saved, *answer.numbers("saved")])
        self.rows |= set(answer.numbers("row"))
        path = RunDirectory.location(config, None)
        if not path.exists():
            self.broken += ["the run is gone"] * bool(self.saved)
            return
        missing = self.rows - {row["step"] for row in read_records(path).rows}
        self.broken += [f"rows {sorted(missing)} are lost"] * bool(missing)
        self.broken += [name for name in litter(config) if name.startswith(".bad-")]


def kill_all_the_way(
    server: ForkServer, root: Path, words: tuple[str, ...], kills: int, seed: int, faults: dict[str, list]
) -> tuple[list[str], int]:
    """Kill runs at random until `kills` have died; what broke, and how many runs got to their end.

    Every other time the seconds count from the start, so that starting dies as often as training.
    """
    draw, killed, finished = random.Random(seed), 0, 0
    broken: list[str] = []
    while killed < kills:
        config, tally = configured(root / "killed", *words, f"name=run{finished}", seed=finished), Tally()
        while True:
            word = draw.choice([None, "resumed"])
            after = draw.uniform(0, 0.15) if killed < kills else None
            answer = server.run(config, kill_after=after, from_word=word, faults=faults)
            tally.add(answer, config)
            killed += answer.code == -9
            if answer.code != -9 or tally.broken:
                break
        broken += tally.broken
        if tally.broken:
            break
        finished += 1
        straight = configured(root / "straight", *words, f"name=run{finished - 1}", seed=finished - 1)
        assert server.run(straight).code == 0
        broken += ["other weights"] * (weights(config) != weights(straight))
        broken += ["other rows"] * (rows(config) != rows(straight))
    return broken, finished


def check(backend: str, root: Path, kills: int, seed: int, trials: Callable[[int], None]) -> None:
    words = (*STEPS, f"backend={backend}")
    with fork_server("torch" if backend == "cpu" else backend) as server:
        broken, finished = kill_all_the_way(server, root, words, kills, seed, {})
    trials(kills)
    print(f"{kills} kills with seed {seed}, {finished} runs got to their end")
    assert broken == []


@pytest.mark.fault(row=1)
@pytest.mark.timeout(100)
def test_30_killed_pytorch_trainers_lose_nothing_seed_1(quick_disk, trials):
    pytest.importorskip("torch")
    check("cpu", quick_disk, 30, 1, trials)


@pytest.mark.slow
@pytest.mark.fault(row=1)
def test_200_killed_pytorch_trainers_lose_nothing_seed_2(quick_disk, trials):
    pytest.importorskip("torch")
    check("cpu", quick_disk, 200, 2, trials)


@pytest.mark.slow
@pytest.mark.fault(row=1)
@pytest.mark.timeout(600)
def test_20_killed_mlx_trainers_lose_nothing_seed_3(quick_disk, trials):
    pytest.importorskip("mlx")
    check("mlx", quick_disk, 20, 3, trials)


@pytest.mark.fault(row=1, mutation=True)
@pytest.mark.timeout(100)
@pytest.mark.parametrize("protection", [{"in_place": [], "slow_fsync": [0.01]}, {"early_word": []}], ids=" ".join)
def test_without_it_30_kills_break_a_promise_seed_4(quick_disk, numpy_runs, protection):
    words = ("training.steps=400", "training.checkpoint_every=1", "training.log_every=1")
    broken, _ = kill_all_the_way(numpy_runs, quick_disk, words, 30, 4, protection)
    assert broken
