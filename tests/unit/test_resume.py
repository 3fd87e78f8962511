"""The loop stopped, killed and started again, and what it measures on held-out data."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bigram import CountingTask
from laboratory import STEPS, Laboratory, assert_equal_arrays, configured, crash

from mhc_exp.config.schema import Config
from mhc_exp.data.task import Batch
from mhc_exp.training import evaluation
from mhc_exp.training.loop import Outcome
from mhc_exp.training.signals import StopRequest
from mhc_exp.training.trainer import Evaluation

# --- stop and resume ---------------------------------------------------------------------------------------------


@pytest.mark.fault(row=20)
@pytest.mark.parametrize("stopped_at", [1, 2, 11, 13, STEPS - 1])
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(
    composed: Config, tmp_path: Path, stopped_at: int
) -> None:
    straight = Laboratory(configured(composed, tmp_path / "straight", nonfinite="skip_step"))
    resumed = Laboratory(configured(composed, tmp_path / "resumed", nonfinite="skip_step"))
    for lab in (straight, resumed):
        lab.trainer.poison = {10: math.nan, 13: math.nan, 14: math.inf, 17: math.nan}
    outcome = straight.train()

    resumed.trainer.before_step[stopped_at] = lambda: resumed.stop.request(signal.SIGTERM)
    assert resumed.train() == Outcome("interrupted", stopped_at, _last_score(straight, stopped_at), signal.SIGTERM)
    assert resumed.saved()[-1] == stopped_at
    resumed.again()
    assert resumed.train() == outcome
    assert resumed.sinks.opened[-1] == (STEPS, stopped_at)
    assert resumed.rows() == straight.rows()
    assert_equal_arrays(resumed.arrays(), straight.arrays())
    one, other = straight.run.checkpoints.newest(), resumed.run.checkpoints.newest()
    assert one is not None
    assert other is not None
    assert {**one.progress, "seconds": 0} == {**other.progress, "seconds": 0}


def _last_score(lab: Laboratory, step: int) -> float:
    return [row["val/loss"] for number, row in lab.rows().items() if number <= step and "val/loss" in row][-1]


@pytest.mark.fault(row=20)
@pytest.mark.parametrize("killed_in", [1, 7, 8, 15, STEPS])
def test_a_killed_run_resumes_from_its_last_checkpoint_to_the_same_end(
    composed: Config, tmp_path: Path, killed_in: int
) -> None:
    straight = Laboratory(configured(composed, tmp_path / "straight"))
    outcome = straight.train()
    killed = Laboratory(configured(composed, tmp_path / "killed"))
    killed.trainer.before_step[killed_in] = crash
    with pytest.raises(RuntimeError, match="power cut"):
        killed.train()
    killed.again()
    assert killed.train() == outcome
    assert killed.rows() == straight.rows()
    assert_equal_arrays(killed.arrays(), straight.arrays())


def test_a_run_whose_end_was_saved_trains_no_further_when_started_again(config: Config) -> None:
    lab = Laboratory(config)
    outcome = lab.train()
    rows = len(lab.sinks.rows)
    lab.again()
    assert lab.train() == outcome
    assert lab.trainer.history == []
    assert len(lab.sinks.rows) == rows


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_real_signal_finishes_the_step_and_saves(config: Config, number: int) -> None:
    lab = Laboratory(config)
    lab.trainer.before_step[8] = lambda: os.kill(os.getpid(), number)
    before = signal.getsignal(number)
    with lab.stop:
        outcome = lab.train()
    assert (outcome.state, outcome.step, outcome.signal) == ("interrupted", 8, number)
    assert len(lab.trainer.history) == 8
    assert lab.saved() == [7, 8]
    assert lab.run.status()["state"] == "interrupted"
    assert signal.getsignal(number) is before


def test_a_signal_during_the_last_step_lets_the_run_finish_and_is_reported(config: Config) -> None:
    lab = Laboratory(config)
    lab.trainer.before_step[STEPS] = lambda: lab.stop.request(signal.SIGINT)
    outcome = lab.train()
    assert (outcome.state, outcome.signal) == ("done", signal.SIGINT)


def test_a_signal_before_the_first_step_leaves_a_run_that_starts_from_the_beginning(config: Config) -> None:
    lab = Laboratory(config)
    lab.stop.request(signal.SIGTERM)
    assert lab.train().state == "interrupted"
    assert lab.saved() == []
    lab.again()
    assert lab.train().state == "done"
    assert [row["step"] for row in lab.sinks.rows].count(0) == 2


def test_the_second_signal_exits_at_once() -> None:
    program = (
        "import os, signal, time\n"
        "from mhc_exp.training.signals import StopRequest\n"
        "with StopRequest():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(60)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert ended.returncode == 128 + signal.SIGINT
    assert "signal again" in ended.stderr


def test_outside_the_main_thread_no_handler_is_touched() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[Any] = []

    def job() -> None:
        with StopRequest():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=job)
    thread.start()
    thread.join()
    assert seen == [before]


# --- a disk that refuses -----------------------------------------------------------------------------------------


def test_a_checkpoint_that_fails_is_warned_about_and_tried_again(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lab = Laboratory(config)
    save = lab.run.checkpoints.save
    monkeypatch.setattr(
        lab.run.checkpoints, "save", lambda step, *rest: _full_disk() if step < 20 else save(step, *rest)
    )
    assert lab.train().state == "done"
    assert lab.saved() == [21, STEPS]
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "No space left" in caplog.text


def test_a_run_whose_last_checkpoint_fails_is_not_done(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Laboratory(config)
    monkeypatch.setattr(lab.run.checkpoints, "save", lambda *_: _full_disk())
    with pytest.raises(OSError, match="No space left"):
        lab.train()
    assert max(lab.rows()) == STEPS
    assert lab.run.status()["state"] != "done"


def _full_disk() -> None:
    raise OSError(28, "No space left on device")


# --- evaluation and sample ---------------------------------------------------------------------------------------


def test_validation_columns_follow_from_the_loss() -> None:
    task = CountingTask()
    task.bytes_per_token = 4.0
    row = evaluation.columns(Evaluation(loss=2.0, accuracy=0.25, tokens=10), task)
    assert row["val/loss"] == 2.0
    assert row["val/accuracy"] == 0.25
    assert row["val/excess"] == pytest.approx(1.5)
    assert row["val/bits_per_byte"] == pytest.approx(2.0 / math.log(2) / 4.0)
    task.floor = task.bytes_per_token = None
    assert set(evaluation.columns(Evaluation(2.0, 0.25, 10), task)) == {"val/loss", "val/accuracy"}


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_held_out_data_do_not_depend_on_accumulation(config: Config, accumulation: int) -> None:
    config = replace(config, training=replace(config.training, accumulation=accumulation))
    batches = evaluation.held_out(config, CountingTask())
    assert {len(batch.inputs) for batch in batches} == {config.training.batch_size // accumulation}
    whole = CountingTask().validation(2, config.training.batch_size)
    for part in range(3):
        joined = np.concatenate([batch[part] for batch in batches])
        assert (joined == np.concatenate([batch[part] for batch in whole])).all()


def test_the_diagnosis_batch_is_small_but_never_empty() -> None:
    long = CountingTask(length=3 * evaluation.DIAGNOSIS_TOKENS).validation(1, 4)
    assert evaluation.diagnosis_batch(long).inputs.shape[0] == 1
    short = CountingTask(length=64).validation(1, 100)
    assert evaluation.diagnosis_batch(short).inputs.size == evaluation.DIAGNOSIS_TOKENS


@pytest.mark.parametrize("size", [1, 3, 8, 100])
def test_the_diagnosis_batch_is_the_first_tokens_however_they_are_batched(size: int) -> None:
    """Six sequences of 80 tokens fit; microbatches may be smaller, and the last one may be a rest."""
    whole = CountingTask(length=80).validation(1, 100)[0]
    parts = [Batch(*(array[start : start + size] for array in whole)) for start in range(0, 100, size)]
    found = evaluation.diagnosis_batch(parts)
    for array, expected in zip(found, whole, strict=True):
        assert (array == expected[:6]).all()
        assert array.shape == (6, 80)


def test_the_diagnosis_batch_of_few_held_out_tokens_is_all_of_them() -> None:
    batches = CountingTask(length=64).validation(2, 3)
    assert evaluation.diagnosis_batch(batches).inputs.shape == (6, 64)


def test_a_text_run_leaves_a_sample_and_any_other_run_none(composed: Config, tmp_path: Path) -> None:
    text = Laboratory(configured(composed, tmp_path / "text", sample_tokens=5), CountingTask(text=True))
    text.train()
    prompt = text.task.validation(1, 4)[0].inputs[0][:2]
    sample = (text.run.path / "sample.txt").read_text()
    assert text.task.decode(prompt) in sample
    assert text.task.decode(text.trainer.generate(prompt, 5, 0)) in sample
    numbers = Laboratory(configured(composed, tmp_path / "numbers", sample_tokens=5))
    numbers.train()
    assert not (numbers.run.path / "sample.txt").exists()
