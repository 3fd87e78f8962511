"""Budgets in steps, tokens or FLOPs, and learning rates as closed functions of the step."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bigram import CountingTask
from laboratory import Laboratory, configured

from mhc_exp.config.build import ConfigError
from mhc_exp.config.schema import Config
from mhc_exp.training.budget import total_steps
from mhc_exp.training.schedule import learning_rate

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
