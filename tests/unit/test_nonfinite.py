"""Losses, gradients and weights that are not finite: every policy, and what never reaches a checkpoint."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from laboratory import STEPS, Laboratory, configured, crash

from mhc_exp.config.schema import Config
from mhc_exp.training.nonfinite import MAX_CONSECUTIVE_SKIPS, NonFiniteWatch
from mhc_exp.training.trainer import Evaluation, StepResult

# --- numbers that are not finite ---------------------------------------------------------------------------------


@pytest.mark.fault(row=11)
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
    reference.trainer.before_step[step] = crash
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


@pytest.mark.fault(row=11)
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
