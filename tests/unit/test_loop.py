"""The loop: what is written when, what survives a stop, and what happens to numbers that are not finite."""

from __future__ import annotations

import itertools
import json
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
from bigram import VOCABULARY, BigramTrainer, CountingTask

from mhc_exp.body.flops import training_flops_per_token
from mhc_exp.config.build import ConfigError
from mhc_exp.config.compose import compose
from mhc_exp.config.schema import Config
from mhc_exp.data.task import Batch
from mhc_exp.runs.directory import RunDirectory
from mhc_exp.training import evaluation
from mhc_exp.training.budget import total_steps
from mhc_exp.training.loop import Outcome, train
from mhc_exp.training.nonfinite import MAX_CONSECUTIVE_SKIPS, NonFiniteWatch
from mhc_exp.training.schedule import learning_rate
from mhc_exp.training.signals import StopRequest
from mhc_exp.training.trainer import Evaluation, StepResult

STEPS = 23


@pytest.fixture(scope="module")
def composed() -> Config:
    return compose(["backend=cpu", "tracking=local", "training=smoke", "dataset=increment", "depth=1"])


@pytest.fixture
def config(composed: Config, tmp_path: Path) -> Config:
    """Intervals without a common divisor, so that every combination of row, evaluation and checkpoint occurs."""
    return configured(composed, tmp_path)


def configured(config: Config, root: Path, **changes: Any) -> Config:
    intervals = {"log_every": 3, "eval_every": 4, "metrics_every": 5, "checkpoint_every": 7}
    training = replace(config.training, **({"steps": STEPS, "eval_batches": 2, **intervals} | changes))
    return replace(config, runs_root=str(root), training=training)


class Recorder:
    """Stands where the sinks are."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.opened: list[tuple[int, int]] = []

    def open(self, run: RunDirectory, total_steps: int, resumed_at: int) -> None:
        self.opened.append((total_steps, resumed_at))

    def log(self, row: dict[str, Any]) -> None:
        json.dumps(row, allow_nan=False)  # raises on a bare NaN
        self.rows.append(row)


class Laboratory:
    """One run directory, and everything needed to start or go on training in it."""

    def __init__(self, config: Config, task: CountingTask | None = None, streams: bool = True) -> None:
        self.config, self.task, self.streams = config, task or CountingTask(), streams
        self.run = RunDirectory.create(config, sweep=None, command=["test"])
        self.sinks = Recorder()
        self.trainer = BigramTrainer(config, streams)
        self.stop = StopRequest()

    def train(self) -> Outcome:
        return train(self.config, self.task, self.trainer, self.run, self.sinks, self.stop)  # type: ignore[arg-type]

    def again(self) -> None:
        """A new process: nothing survives but the directory, the rows, and what step poisons the data."""
        poison = self.trainer.poison
        self.run = RunDirectory.open(self.run.path)
        self.trainer, self.stop = BigramTrainer(self.config, self.streams), StopRequest()
        self.trainer.poison = poison

    def rows(self) -> dict[int, dict[str, Any]]:
        """Last row of every step without what a clock measured."""
        timeless = {"seconds", "perf/step_seconds", "perf/tokens_per_second"}
        return {row["step"]: {k: v for k, v in row.items() if k not in timeless} for row in self.sinks.rows}

    def arrays(self) -> dict[str, np.ndarray]:
        state = self.trainer.state()
        return {**state.model, **state.optimizer}

    def saved(self) -> list[int]:
        return self.run.checkpoints.steps()


def assert_equal_arrays(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].tobytes() == other[name].tobytes(), name


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


def test_the_device_is_waited_for_once_per_row_not_once_per_step(composed: Config, tmp_path: Path) -> None:
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


# --- stop and resume ---------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("killed_in", [1, 7, 8, 15, STEPS])
def test_a_killed_run_resumes_from_its_last_checkpoint_to_the_same_end(
    composed: Config, tmp_path: Path, killed_in: int
) -> None:
    straight = Laboratory(configured(composed, tmp_path / "straight"))
    outcome = straight.train()
    killed = Laboratory(configured(composed, tmp_path / "killed"))
    killed.trainer.before_step[killed_in] = _crash
    with pytest.raises(RuntimeError, match="power cut"):
        killed.train()
    killed.again()
    assert killed.train() == outcome
    assert killed.rows() == straight.rows()
    assert_equal_arrays(killed.arrays(), straight.arrays())


def _crash() -> None:
    raise RuntimeError("power cut")


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


# --- numbers that are not finite ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("step", [1, 8, 9, 14, STEPS])
def test_policy_stop_keeps_the_weights_of_the_step_before(
    composed: Config, tmp_path: Path, step: int, bad: float
) -> None:
    lab = Laboratory(configured(composed, tmp_path / "poisoned"))
    lab.trainer.poison[step] = bad
    outcome = lab.train()
    assert (outcome.state, outcome.step) == ("diverged", step)
    assert lab.run.status()["state"] == "diverged"
    assert lab.run.status()["step"] == step

    reference = Laboratory(configured(composed, tmp_path / "reference"))
    reference.trainer.before_step[step] = _crash
    with pytest.raises(RuntimeError, match="power cut"):
        reference.train()
    assert lab.arrays()["table"].tobytes() == reference.arrays()["table"].tobytes()

    assert max(lab.rows()) == step
    row = lab.rows()[step]
    assert row["train/nonfinite_total"] == 1
    assert "train/loss" not in row
    assert f"train/loss={bad}" in row["nonfinite"]
    assert all(saved < step for saved in lab.saved())
    _assert_checkpoints_finite(lab)


def test_policy_skip_leaves_out_the_step_and_counts_it(config: Config) -> None:
    lab = Laboratory(replace(config, training=replace(config.training, nonfinite="skip_step")))
    tables: list[bytes] = []
    lab.trainer.poison[10] = math.nan
    for step in (10, 11):
        lab.trainer.before_step[step] = lambda: tables.append(lab.trainer.table.tobytes())
    outcome = lab.train()
    assert outcome.state == "done"
    assert tables[0] == tables[1]
    assert lab.trainer.updates == STEPS - 1
    assert len(lab.sinks.rows) == len(lab.rows())  # step 10 has its row once, though it is bad and due
    assert [lab.rows()[step]["train/nonfinite_total"] for step in (0, 9, 10, STEPS)] == [0, 0, 1, 1]


def test_a_bad_step_between_two_rows_gets_a_row_of_its_own(composed: Config, tmp_path: Path) -> None:
    every = {"log_every": 10, "eval_every": 20, "metrics_every": 20, "checkpoint_every": 20}
    lab = Laboratory(configured(composed, tmp_path, steps=40, nonfinite="skip_step", **every))
    lab.trainer.poison = {13: math.nan, 14: math.nan, 17: math.inf}
    lab.train()
    assert [row["step"] for row in lab.sinks.rows] == [0, 10, 13, 17, 20, 30, 40]
    assert [lab.rows()[step]["train/nonfinite_total"] for step in (10, 13, 17, 20)] == [0, 1, 3, 3]


def test_skipping_without_end_is_divergence(composed: Config, tmp_path: Path) -> None:
    steps = MAX_CONSECUTIVE_SKIPS + 30
    lab = Laboratory(configured(composed, tmp_path, steps=steps, nonfinite="skip_step"))
    lab.trainer.poison = dict.fromkeys(range(8, steps + 1), math.nan)
    outcome = lab.train()
    assert (outcome.state, outcome.step) == ("diverged", 8)
    assert lab.sinks.rows[-1]["train/nonfinite_total"] == MAX_CONSECUTIVE_SKIPS
    _assert_checkpoints_finite(lab)


def test_the_limit_of_skips_is_exact_and_a_good_step_starts_it_anew() -> None:
    watch = NonFiniteWatch("skip_step")
    good, bad = (StepResult(1, 1.0, 1.0, None, True), StepResult(2, math.nan, 1.0, None, False))
    for _ in range(MAX_CONSECUTIVE_SKIPS - 1):
        watch.observe(bad)
    watch.observe(good)
    for _ in range(MAX_CONSECUTIVE_SKIPS - 1):
        watch.observe(bad)
    assert watch.diverged_at is None
    watch.observe(bad)
    assert watch.diverged_at is not None
    assert watch.total == 2 * MAX_CONSECUTIVE_SKIPS - 1


def test_policy_continue_counts_to_the_end_but_never_saves_poison_nor_calls_it_done(config: Config) -> None:
    lab = Laboratory(replace(config, training=replace(config.training, nonfinite="continue")))
    lab.trainer.poison[10] = math.nan
    outcome = lab.train()
    assert len(lab.trainer.history) == STEPS
    assert (outcome.state, outcome.step) == ("diverged", 10)
    assert lab.rows()[STEPS]["train/nonfinite_total"] == STEPS - 9
    assert "val/loss" not in lab.rows()[STEPS]
    assert outcome.score == lab.rows()[8]["val/loss"]
    assert lab.saved() == [7]
    _assert_checkpoints_finite(lab)


def test_poison_that_no_loss_has_shown_yet_is_not_saved_either(config: Config) -> None:
    lab = Laboratory(config)

    def overflow() -> None:
        lab.trainer.second[0, 0] = np.inf  # the update stays finite, the optimizer's state does not

    lab.trainer.before_step[14] = overflow
    assert lab.train().state == "diverged"
    assert len(lab.trainer.history) == 14
    assert lab.saved() == [7]
    _assert_checkpoints_finite(lab)


def test_an_evaluation_that_is_not_finite_is_named_not_written(config: Config) -> None:
    lab = Laboratory(config)
    lab.trainer.evaluate = lambda batches: Evaluation(math.inf, 0.5, 1)
    outcome = lab.train()
    assert outcome.score is None
    assert "val/loss" not in lab.rows()[STEPS]
    assert "val/loss=inf" in lab.rows()[STEPS]["nonfinite"]


def _assert_checkpoints_finite(lab: Laboratory) -> None:
    for step in lab.saved():
        state = lab.run.checkpoints.read(step).state
        assert all(np.isfinite(array).all() for array in (*state.model.values(), *state.optimizer.values()))


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


# --- budget ------------------------------------------------------------------------------------------------------


def test_budgets_in_steps_tokens_and_flops_agree(composed: Config, tmp_path: Path) -> None:
    def steps(**budget: float | None) -> int:
        return total_steps(configured(composed, tmp_path, **({"steps": None} | budget)), 3.3e7 / 7, 1024)

    assert steps(steps=17) == 17
    assert steps(tokens=17 * 1024) == steps(tokens=18 * 1024 - 1) == 17
    assert steps(tokens=17 * 1024 - 1) == 16
    assert all(steps(flops=count * (3.3e7 / 7 * 1024)) == count for count in range(1, 300))
    assert steps(flops=17.99 * 3.3e7 / 7 * 1024) == 17


def test_a_budget_below_one_step_says_what_to_type(composed: Config, tmp_path: Path) -> None:
    for budget in ({"tokens": 1023}, {"flops": 1e9}):
        config = configured(composed, tmp_path, steps=None, **budget)
        with pytest.raises(ConfigError, match="less than one step") as refused:
            total_steps(config, 3.3e7, 1024)
        (name,) = budget
        advice = str(refused.value).split(f"type training.{name}=")[1].split(" ")[0]
        enough = configured(composed, tmp_path, steps=None, **{name: type(budget[name])(advice)})
        assert total_steps(enough, 3.3e7, 1024) == 1


@pytest.mark.parametrize("budget", [{"steps": None}, {"steps": 5, "tokens": 5000}])
def test_none_or_two_budgets_are_refused(composed: Config, tmp_path: Path, budget: dict[str, int | None]) -> None:
    with pytest.raises(ConfigError, match="exactly one"):
        total_steps(configured(composed, tmp_path, **budget), 1.0, 1)


def test_a_token_budget_drives_the_loop(composed: Config, tmp_path: Path) -> None:
    per_step = 4 * CountingTask().length
    lab = Laboratory(configured(composed, tmp_path, steps=None, tokens=9 * per_step + 1))
    assert lab.train().step == 9
    assert lab.rows()[9]["tokens"] == 9 * per_step


# --- schedule ----------------------------------------------------------------------------------------------------


def rates(config: Config, total: int, **changes: Any) -> list[float]:
    optimizer = replace(config.optimizer, **({"lr": 2.0, "warmup": 0.0} | changes))
    return [learning_rate(optimizer, step, total) for step in range(1, total + 1)]


def test_schedules_have_their_closed_values(composed: Config) -> None:
    assert rates(composed, 4, schedule="constant") == [2.0] * 4
    assert rates(composed, 10, schedule="constant", warmup=0.4)[:5] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])
    cosine = rates(composed, 100, schedule="cosine", warmup=0.2, final_lr=0.1)
    assert cosine[19] == 2.0
    assert cosine[59] == pytest.approx(2.0 * 0.55)  # half-way down
    assert cosine[99] == pytest.approx(0.2)
    wsd = rates(composed, 100, schedule="wsd", warmup=0.1, cooldown=0.4, final_lr=0.0)
    assert wsd[9] == wsd[59] == 2.0
    assert wsd[79] == pytest.approx(1.0)
    assert wsd[99] == pytest.approx(0.0)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "wsd"])
@pytest.mark.parametrize("warmup", [0.0, 0.013, 0.5, 1.0])
@pytest.mark.parametrize("cooldown", [0.0, 0.2, 1.0])
def test_schedules_never_jump_and_stay_within_the_peak(
    composed: Config, schedule: str, warmup: float, cooldown: float
) -> None:
    total = 1000
    curve = rates(composed, total, schedule=schedule, warmup=warmup, cooldown=cooldown, final_lr=0.1)
    assert all(0.0 < rate <= 2.0 for rate in curve)
    steepest = 2.0 / total / min([share for share in (warmup, cooldown, 0.5) if share > 0]) * math.pi
    assert max(abs(a - b) for a, b in itertools.pairwise(curve)) <= steepest


def test_an_update_outside_the_budget_has_no_learning_rate(composed: Config) -> None:
    for step in (0, 11):
        with pytest.raises(ValueError, match=r"outside 1\.\.10"):
            learning_rate(composed.optimizer, step, 10)
