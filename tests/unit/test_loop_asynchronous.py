"""A device that works ahead of the host: rows are fetched while it does, and are those of one that does not."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from laboratory import STEPS, Laboratory, assert_equal_arrays, configured

from mhc_exp.config.schema import Config


def pair(config: Config, change=lambda lab: None) -> list[Laboratory]:
    """The same run on a synchronous and on an asynchronous device."""
    labs = []
    for asynchronous in (False, True):
        lab = Laboratory(replace(config, runs_root=f"{config.runs_root}/{asynchronous}"), asynchronous=asynchronous)
        change(lab)
        labs.append(lab)
    return labs


def watched(lab: Laboratory) -> list[tuple[str, int]]:
    """What is asked of the trainer, in order."""
    seen: list[tuple[str, int]] = []
    step, fetch = lab.trainer.step, lab.trainer.fetch
    lab.trainer.step = lambda number, batch, lr: (seen.append(("step", number)), step(number, batch, lr))[1]
    lab.trainer.fetch = lambda until=None: (seen.append(("fetch", until)), fetch(until))[1]
    return seen


def test_a_row_is_fetched_after_the_next_step_was_given_to_the_device(config: Config) -> None:
    synchronous, asynchronous = pair(config)
    order = watched(synchronous), watched(asynchronous)
    synchronous.train()
    asynchronous.train()
    assert order[0][3:6] == [("step", 3), ("fetch", 3), ("step", 4)]
    assert order[1][3:6] == [("step", 3), ("step", 4), ("fetch", 3)]
    assert order[1][6] == ("fetch", 4)  # an evaluation wants the weights after step 4, not after step 5
    assert order[1].index(("fetch", 7)) + 1 == order[1].index(("step", 8))  # and so does a checkpoint
    fetched = [number for what, number in order[1] if what == "fetch"]
    assert fetched == sorted(set(fetched)) == [number for what, number in order[0] if what == "fetch"]


def test_rows_checkpoints_and_weights_are_the_same(config: Config) -> None:
    synchronous, asynchronous = pair(config)
    assert synchronous.train() == asynchronous.train()
    assert synchronous.rows() == asynchronous.rows()
    assert [row["step"] for row in asynchronous.sinks.rows] == sorted(synchronous.rows())
    assert_equal_arrays(synchronous.arrays(), asynchronous.arrays())
    assert synchronous.saved() == asynchronous.saved()


@pytest.mark.parametrize("step", range(1, STEPS + 1))
@pytest.mark.parametrize("policy", ["stop", "skip_step", "continue"])
def test_a_step_that_is_not_finite(composed: Config, tmp_path: Path, step: int, policy: str) -> None:
    config = configured(composed, tmp_path, nonfinite=policy)

    def poison(lab: Laboratory) -> None:
        lab.trainer.poison[step] = float("nan")

    synchronous, asynchronous = pair(config, poison)
    assert synchronous.train() == asynchronous.train()
    assert synchronous.rows() == asynchronous.rows()
    assert synchronous.run.status()["state"] == asynchronous.run.status()["state"]
    assert synchronous.saved() == asynchronous.saved()
    if policy == "stop":
        assert np.isfinite(asynchronous.trainer.table).all()


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_stop_in_any_step_and_going_on(config: Config, step: int) -> None:
    def request(lab: Laboratory) -> None:
        lab.trainer.before_step[step] = lambda: lab.stop.request(signal.SIGTERM)

    synchronous, asynchronous = pair(config, request)
    assert synchronous.train() == asynchronous.train()
    assert synchronous.rows() == asynchronous.rows()
    asynchronous.again()
    asynchronous.train()
    alone = Laboratory(config)
    alone.train()
    assert asynchronous.rows() == alone.rows()
    assert_equal_arrays(asynchronous.arrays(), alone.arrays())


def test_the_time_of_a_step_counts_every_step_once(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is done at once: the host's clock ticks 50 times in each step."""
    clock = iter(range(10**6))
    monkeypatch.setattr("mhc_exp.training.loop.time.monotonic", lambda: float(next(clock)))
    lab = Laboratory(config, asynchronous=True)
    for step in range(1, STEPS + 1):
        lab.trainer.before_step[step] = lambda: [next(clock) for _ in range(50)]
    lab.train()
    seconds = [row["perf/step_seconds"] for row in lab.sinks.rows[1:]]
    assert all(50 <= one <= 54 for one in seconds), seconds
