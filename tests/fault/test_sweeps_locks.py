"""Rows 17 and 18: several starts of one run, and locks whose owner is gone."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import ForkServer, configured, opened, rows

from mhc_exp.config.schema import Config
from mhc_exp.runs import lock

WORDS = ("training.steps=6", "training.checkpoint_every=2", "training.log_every=1")


def started_at_once(
    server: ForkServer, root: Path, rounds: int, faults: dict[str, list]
) -> tuple[list[str], dict[int, int]]:
    """What is wrong after 2, 3 or 4 processes started the same run at once, and how many ended with which code."""
    wrong, codes = [], dict.fromkeys((0, 2), 0)
    straight = configured(root / "straight", *WORDS)
    assert server.run(straight).code == 0
    for number in range(rounds):
        config = configured(root / str(number), *WORDS)
        answer = server.run(config, count=2 + number % 3, faults={"slow_steps": [0.01], **faults})
        for code in answer.codes:
            codes[code] = codes.get(code, 0) + 1
        wrong += answer.text("raised") + judge(config, straight, answer.codes, answer.said)
    return wrong, codes


def judge(config: Config, straight: Config, codes: list[int], said: list[str]) -> list[str]:
    """Exactly one process trained; the others found the run done, or were refused and told who has it."""
    run = opened(config)
    wrong = [f"codes {codes}"] * (not set(codes) <= {0, 2} or 0 not in codes)
    by_worker = f"ended refused {run.name}: refused"  # it has named the owner on stderr
    told = [line for line in said if line.startswith("ended refused") and not line.startswith(by_worker)]
    wrong += [line for line in told if "process " not in line]
    wrong += [f"attempt {run.status()['attempt']}"] * (run.status()["attempt"] != 1)
    lines = run.metrics_path.read_text().splitlines()
    wrong += [f"{len(lines)} lines"] * (len(lines) != 7) + ["other rows"] * (rows(config) != rows(straight))
    return wrong + [name for name in os.listdir(run.path.parent) if name != run.name]


@pytest.mark.fault(row=17)
@pytest.mark.parametrize("rounds", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_of_2_to_4_starts_at_once_one_trains(
    numpy_runs: ForkServer, quick_disk: Path, trials: Callable[[int], None], rounds: int
) -> None:
    trials(rounds)
    wrong, codes = started_at_once(numpy_runs, quick_disk, rounds, {})
    print(f"{codes[0]} trained the run or found it done, {codes[2]} were refused")
    assert wrong == []


@pytest.mark.fault(row=17, mutation=True)
def test_without_locks_it_would_be_noticed(numpy_runs: ForkServer, quick_disk: Path) -> None:
    assert started_at_once(numpy_runs, quick_disk, 2, {"lockless": []})[0]


# --- stale locks -------------------------------------------------------------------------------------------------


def sign(path: Path, pid: int) -> None:
    path.write_text(json.dumps({"pid": pid, "host": socket.gethostname()}))


def seconds_to_take(path: Path) -> float:
    started = time.monotonic()
    with lock.hold(path):
        return time.monotonic() - started


@pytest.mark.fault(row=18)
def test_the_process_id_of_a_dead_owner_may_belong_to_somebody_else(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    for pid in (1, os.getpid(), os.getppid()):  # processes that live and have nothing to do with it
        sign(path, pid)
        assert lock.holder(path) is None
        assert seconds_to_take(path) < 1.0


@pytest.mark.fault(row=18)
def test_10_killed_owners_leave_runs_that_start_within_a_second_seed_6(
    numpy_runs: ForkServer, quick_disk: Path, trials: Callable[[int], None]
) -> None:
    config = configured(quick_disk, *WORDS, "training.steps=1000")
    trials(10)
    for _ in range(10):
        died = numpy_runs.run(config, faults={"slow_steps": [0.01]}, from_word="row", kill_after=0.02)
        assert died.code == -9
        assert seconds_to_take(opened(config).lock_path) < 1.0


@pytest.mark.fault(row=18, mutation=True)
@pytest.mark.parametrize("rule", ["the file is there", "its process lives"])
def test_a_lock_by_another_rule_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    def taken(fd: int) -> bool:
        fcntl.flock(fd, fcntl.LOCK_SH)
        return not os.pread(fd, 1, 0) if rule == "the file is there" else not alive(json.loads(os.pread(fd, 100, 0)))

    monkeypatch.setattr(lock, "_take", taken)
    sign(tmp_path / ".lock", os.getppid())
    with pytest.raises(lock.Locked):
        seconds_to_take(tmp_path / ".lock")


def alive(owner: dict[str, int]) -> bool:
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    return True
