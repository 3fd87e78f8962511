"""The loop: what is written when, what survives a stop, a full disk, and what comes after the last step."""

from __future__ import annotations

import math
import signal
from pathlib import Path

import pytest
from bigram import VOCABULARY, CountingTask
from laboratory import STEPS, Laboratory, configured

from mhc_exp import startup
from mhc_exp.body.flops import training_flops_per_token
from mhc_exp.config.schema import Config
from mhc_exp.data.task import Batch
from mhc_exp.training.loop import Outcome
from mhc_exp.training.schedule import learning_rate

# --- what is written when ----------------------------------------------------------------------------------------


def test_row_of_step_zero_shows_the_initial_values_before_any_update(config: Config) -> None:
    lab = Laboratory(config)
    updates_made_before_the_first_row: list[int] = []
    log = lab.sinks.log
    lab.sinks.log = lambda row: (updates_made_before_the_first_row.append(len(lab.trainer.history)), log(row))[1]
    lab.train()
    first = lab.sinks.rows[0]
    assert updates_made_before_the_first_row[0] == 0
    assert (first["step"], first["tokens"]) == (0, 0)
    assert first["val/loss"] == pytest.approx(math.log(VOCABULARY))
    assert first["gain/forward_amax_max"] == pytest.approx(1.0)
    assert "train/loss" not in first


def test_rows_come_at_every_interval_and_at_the_end(config: Config) -> None:
    lab = Laboratory(config)
    outcome = lab.train()
    rows = lab.rows()
    assert list(rows) == [0, 3, 4, 5, 6, 8, 9, 10, 12, 15, 16, 18, 20, 21, STEPS]
    assert [step for step, row in rows.items() if "val/loss" in row] == [0, 4, 8, 12, 16, 20, STEPS]
    assert [step for step, row in rows.items() if "gain/forward_amax_max" in row] == [0, 5, 10, 15, 20, STEPS]
    assert [layers["step"] for layers in lab.sinks.layers] == [0, 5, 10, 15, 20, STEPS]
    assert outcome == Outcome("done", STEPS, rows[STEPS]["val/loss"], None)
    assert lab.sinks.opened == [(STEPS, 0)]
    assert lab.saved() == [21, STEPS]
    status = lab.run.status()
    assert (status["state"], status["step"], status["score"]) == ("done", STEPS, outcome.score)


def test_a_row_holds_the_numbers_of_its_own_step(config: Config) -> None:
    lab = Laboratory(config)
    lab.train()
    tokens_per_step = config.training.batch_size * lab.task.length
    for step, row in lab.rows().items():
        assert row["tokens"] == step * tokens_per_step
        if step:
            result = lab.trainer.history[step - 1]
            assert (row["train/loss"], row["train/grad_norm"]) == (result.loss, result.grad_norm)
            assert row["mix/grad_norm"] == result.mix_grad_norm
            assert row["train/lr"] == lab.trainer.rates[step - 1]
    assert lab.trainer.rates == [learning_rate(config.optimizer, step, STEPS) for step in range(1, STEPS + 1)]


def test_update_n_sees_batch_n_minus_one_and_every_batch_once(config: Config) -> None:
    asked: list[int] = []

    class Watched(CountingTask):
        def batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Batch:
            asked.append(step)
            return super().batch(step, batch_size, rank, world)

    lab = Laboratory(config, Watched())
    first = lab.task.batch(0, config.training.batch_size)
    asked.clear()
    step = lab.trainer.step
    lab.trainer.step = lambda number, batch, lr: (seen.append((number, batch)), step(number, batch, lr))[1]
    seen: list[tuple[int, Batch]] = []
    lab.train()
    assert [number for number, _ in seen] == list(range(1, STEPS + 1))
    assert (seen[0][1].inputs == first.inputs).all()
    assert asked[-STEPS:] == list(range(STEPS))


def test_time_never_runs_backwards_and_goes_on_after_a_resume(config: Config) -> None:
    lab = Laboratory(config)
    lab.trainer.before_step[12] = lambda: lab.stop.request(signal.SIGTERM)
    lab.train()
    before = lab.run.checkpoints.newest().progress["seconds"]  # type: ignore[union-attr]
    lab.again()
    lab.train()
    seconds = [row["seconds"] for row in lab.sinks.rows]
    assert seconds == sorted(seconds)
    assert seconds[-1] > before > 0


def test_the_device_is_waited_for_once_per_row_not_once_per_step(
    composed: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "_reached", {"python": (0.0, 0.0)})
    every = {"log_every": 10, "eval_every": 40, "metrics_every": 40, "checkpoint_every": 40}
    lab = Laboratory(configured(composed, tmp_path, steps=40, **every))
    lab.train()
    rows, first_step = 4, 1  # the first step is waited for once, to tell how long the start took
    assert lab.trainer.fetches == rows + first_step
    assert lab.run.identity["seconds_to_first_step"] > 0


def test_a_wiring_without_streams_has_no_gain_columns(config: Config) -> None:
    lab = Laboratory(config, streams=False)
    lab.train()
    assert not [name for row in lab.sinks.rows for name in row if name.startswith(("gain/", "streams/", "mix/"))]


def test_throughput_and_utilisation_are_of_updates_alone(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mhc_exp.training.loop.peak_flops", lambda device, dtype: 1e12)
    clock = iter(range(10**6))
    monkeypatch.setattr("mhc_exp.training.loop.time.monotonic", lambda: float(next(clock)))
    lab = Laboratory(config)
    evaluate = lab.trainer.evaluate
    lab.trainer.evaluate = lambda batches: ([next(clock) for _ in range(1000)], evaluate(batches))[1]
    for step in range(1, STEPS + 1):
        lab.trainer.before_step[step] = lambda: [next(clock) for _ in range(50)]
    lab.train()
    tokens_per_step = config.training.batch_size * lab.task.length
    flops = training_flops_per_token(config, VOCABULARY)
    for row in lab.sinks.rows[1:]:
        assert 50 <= row["perf/step_seconds"] <= 52  # the thousand seconds of an evaluation are not in it
        assert row["perf/tokens_per_second"] == pytest.approx(tokens_per_step / row["perf/step_seconds"])
        assert row["perf/mfu"] == pytest.approx(row["perf/tokens_per_second"] * flops / 1e12)
