"""Statistics with known answers: what is called different is, what is not is not, and doubt has the right size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

pd = pytest.importorskip("pandas")

from mhc_exp.analysis.differences import (  # noqa: E402
    agreement,
    bootstrap_interval,
    seeds_needed,
    student_quantile,
    verdict,
)
from mhc_exp.analysis.statistics import at_best_learning_rate, at_equal, learning_rates, paired  # noqa: E402


def table(*lines: dict[str, Any]) -> Any:
    base = {"status": "done", "depth": 12, "seed": 0, "variant": "mhc", "optimizer.lr": 0.002, "device": "cpu"}
    base |= {"parameters": 1000.0, "flops_per_token": 6000.0}
    return pd.DataFrame([{"run": f"r{n}", **base, **line} for n, line in enumerate(lines)])


def two(ours: list[float], theirs: list[float], **more: Any) -> Any:
    return table(
        *({"variant": "mhc", "seed": s, "score": x, **more} for s, x in enumerate(ours)),
        *({"variant": "baseline", "seed": s, "score": x} for s, x in enumerate(theirs)),
    )


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_students_t_has_its_published_quantiles() -> None:
    for freedom, expected in {1: 12.706, 2: 4.3027, 4: 2.7764, 9: 2.2622, 30: 2.0423, 10**6: 1.95996}.items():
        assert student_quantile(0.975, freedom) == pytest.approx(expected, rel=2e-4)
    assert student_quantile(0.5, 5) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("count", [3, 5, 10, 20])
def test_the_interval_covers_the_truth_as_often_as_it_says(count: int) -> None:
    draws = np.random.default_rng(count).normal(0.3, 1.0, (1000, count))
    covered = [low < 0.3 < high for low, high in (bootstrap_interval(draw, resamples=1000) for draw in draws)]
    print(f"\n{count} seeds: covered {np.mean(covered):.3f}")
    assert 0.92 < np.mean(covered) < 0.99


def test_the_interval_is_the_same_every_time_and_narrows_with_the_spread() -> None:
    values = [-0.11, -0.09, -0.12, -0.08]
    assert bootstrap_interval(values) == bootstrap_interval(values)
    low, high = bootstrap_interval(values)
    assert low < -0.1 < high < 0
    assert all(math.isnan(end) for end in bootstrap_interval([0.1]))


def test_chance_alone_is_called_different_as_rarely_as_the_docstring_says() -> None:
    draws = np.random.default_rng(0)
    often = {n: np.mean([verdict(x).text == "different" for x in draws.normal(size=(4000, n))]) for n in (3, 5, 8)}
    print(f"\nfalse alarms: {often}")
    assert 0.16 < often[3] < 0.20
    assert 0.03 < often[5] < 0.08
    assert often[8] < 0.02


# --- verdicts --------------------------------------------------------------------------------------------------------


def test_different_needs_three_seeds_that_agree_beyond_two_standard_errors() -> None:
    assert verdict([-0.10, -0.11, -0.09]).text == "different"
    assert verdict([0.10, 0.11, 0.09]).text == "different"
    assert verdict([-0.10, -0.11]).text == "not distinguishable (about 3 seeds needed, 2 there)"
    assert verdict([-0.10]) == ("not distinguishable (1 seed says nothing of the spread)", None)
    assert verdict([0.0, 0.0, 0.0]) == ("not distinguishable (no difference at all)", None)
    assert verdict([]).text == "no pair of seeds"


def test_where_the_naive_rule_sees_a_difference_and_ours_does_not() -> None:
    scattered = [-0.01, -0.02, -0.30]  # the mean is lower, and every seed agrees
    assert np.mean(scattered) < -0.1
    assert verdict(scattered).text == "not distinguishable (about 9 seeds needed, 3 there)"
    one_disagrees = [-0.10] * 10 + [0.01]  # 2 SE are exceeded by far
    assert abs(np.mean(one_disagrees)) > 5 * np.std(one_disagrees, ddof=1) / math.sqrt(11)
    assert verdict(one_disagrees).text == "not distinguishable (10 of 11 seeds agree in sign)"


def test_the_number_of_seeds_is_the_first_at_which_two_standard_errors_are_exceeded() -> None:
    values = np.array([-1.0, 2.0, 0.5, 1.0])
    needed = seeds_needed(values)
    spread, mean = values.std(ddof=1), abs(values.mean())
    assert needed is not None
    assert 2 * spread / math.sqrt(needed) < mean <= 2 * spread / math.sqrt(needed - 1)
    assert agreement(values) == 3


# --- comparisons -----------------------------------------------------------------------------------------------------


def test_a_pair_of_seeds_removes_what_both_share() -> None:
    luck = np.array([0.0, 0.5, -0.5, 1.0])
    (line,) = paired(two(list(2.9 + luck), list(3.0 + luck))).to_dict("records")
    assert (line["depth"], line["variant"], line["seeds"], line["agree"]) == (12, "mhc", 4, 4)
    assert line["mean"] == pytest.approx(-0.1)
    assert line["se"] == pytest.approx(0, abs=1e-12)
    assert line["verdict"] == "different"
    assert (line["parameters_percent"], line["flops_percent"], line["differs"], line["notes"]) == (0, 0, "", "")


def test_cost_and_other_differences_stand_beside_the_comparison() -> None:
    runs = two([1.0, 1.1], [2.0, 2.2], parameters=1240.0, flops_per_token=9000.0, **{"optimizer.lr": 0.004})
    runs.loc[0, "device"] = "H100"
    (line,) = paired(runs).to_dict("records")
    assert (line["parameters_percent"], line["flops_percent"]) == (pytest.approx(24), pytest.approx(50))
    assert line["differs"] == "optimizer.lr"
    assert line["notes"] == "measured on different devices"
    assert line["mean"] == pytest.approx(-1.05)


def test_a_diverged_or_unfinished_run_is_in_the_count_and_in_no_mean() -> None:
    runs = two([1.0, 9.0, 1.2, 1.1, 5.0], [2.0, 2.0, 2.0, 2.0, 2.0])
    runs.loc[1, "status"] = "diverged"
    runs.loc[4, "status"] = "running"
    runs = runs[runs["run"] != "r5"]  # the reference has no seed 0
    (line,) = paired(runs).to_dict("records")
    assert (line["seeds"], line["diverged"], line["unfinished"], line["reference_diverged"]) == (2, 1, 1, 0)
    assert line["mean"] == pytest.approx(-0.85)
    assert line["notes"] == (
        "diverged in 1 of 5 seeds, which are in no mean; unfinished in 1 of 5 seeds; 1 seeds have no partner"
    )
    runs["status"] = "diverged"
    (line,) = paired(runs).to_dict("records")
    assert (line["seeds"], line["verdict"], line["diverged"]) == (0, "no pair of seeds", 5)


def test_a_missing_reference_is_said_and_two_experiments_are_never_mixed() -> None:
    (line,) = paired(table({"score": 1.0})).to_dict("records")
    assert line["verdict"] == "no pair of seeds"
    mixed = table({"score": 1.0, "config_hash": "a"}, {"score": 1.2, "optimizer.lr": 0.1, "config_hash": "b"})
    with pytest.raises(ValueError, match=r"2 runs have depth=12, variant=mhc, seed=0 and differ in optimizer\.lr"):
        paired(mixed)
    again = table(*[{"score": 1.0, "config_hash": "a"}] * 2, {"score": 2.0, "variant": "baseline", "config_hash": "c"})
    assert paired(again)["seeds"].tolist() == [1]
    assert len(paired(table({"score": 1.0, "variant": "baseline"}))) == 0


def test_runs_without_a_readable_configuration_are_counted_and_harm_nothing() -> None:
    lost = {"variant": None, "depth": None, "seed": None, "score": None, "status": "unknown"}
    runs = pd.concat([two([1.0], [2.0]), table(lost, lost)], ignore_index=True).astype({"seed": "float64"})
    compared = paired(runs)
    assert (len(compared), compared.attrs["unknown"]) == (1, 2)


# --- learning rates --------------------------------------------------------------------------------------------------


def grid(variant: str, scores: dict[float, list[float | None]]) -> list[dict[str, Any]]:
    """None is a run that diverged."""
    return [
        {
            "variant": variant,
            "optimizer.lr": lr,
            "seed": seed,
            "score": score,
            "status": "done" if score else "diverged",
        }
        for lr, values in scores.items()
        for seed, score in enumerate(values)
    ]


def test_each_variant_is_compared_at_its_own_best_rate_and_a_grid_edge_is_flagged() -> None:
    ours = grid("mhc", {1e-3: [3.0, 3.2, 3.1], 2e-3: [2.5, 2.7, 2.6], 4e-3: [2.0, None, 2.1]})
    theirs = grid("baseline", {1e-3: [2.9, 3.1, 3.0], 2e-3: [2.8, 3.0, 2.9], 4e-3: [2.7, 2.9, 2.8]})
    runs = table(*ours, *theirs)
    rates = learning_rates(runs)
    best = rates[rates["best"]].set_index("variant")
    assert best["optimizer.lr"].to_dict() == {"mhc": 2e-3, "baseline": 4e-3}
    assert best["edge"].to_dict() == {"mhc": "", "baseline": "high"}
    assert rates["diverged"].sum() == 1
    chosen = at_best_learning_rate(runs)
    assert len(chosen) == 6
    assert chosen.groupby("variant")["lr_diverged"].first().to_dict() == {"mhc": 1, "baseline": 0}
    (line,) = paired(chosen).to_dict("records")
    assert line["mean"] == pytest.approx(-0.2)
    assert line["differs"] == "optimizer.lr"
    assert line["notes"] == "best learning rate, at the high end of its grid"


def test_one_rate_is_no_grid_whose_end_could_matter() -> None:
    runs = table(*grid("mhc", {1e-3: [3.0], 2e-3: [2.5], 4e-3: [2.6]}), *grid("baseline", {1e-3: [2.9]}))
    (line,) = paired(at_best_learning_rate(runs)).to_dict("records")
    assert line["notes"] == "only one learning rate"


def test_a_rate_is_not_best_because_it_was_tried_on_a_lucky_seed() -> None:
    runs = table(*grid("mhc", {1e-3: [2.0, 3.0, 3.0], 2e-3: [2.1], 4e-3: [2.2]}))
    assert learning_rates(runs).set_index("optimizer.lr")["best"].to_dict() == {1e-3: True, 2e-3: False, 4e-3: False}
    everywhere = table(*grid("mhc", {1e-3: [None, None], 2e-3: [2.1, None]}))
    assert learning_rates(everywhere)["best"].tolist() == [False, True]
    assert not learning_rates(table(*grid("mhc", {1e-3: [None]})))["best"].any()


# --- views -----------------------------------------------------------------------------------------------------------


def curves() -> tuple[Any, Any]:
    """A wiring twice as good per step and three times as slow; loss is 10 - step (20 - ...) on straight lines."""
    lines = []
    for run, slope, seconds in (("r0", 2.0, 3.0), ("r1", 1.0, 1.0)):
        for step in range(0, 5 if run == "r0" else 9, 2):
            row = {"run": run, "step": step, "tokens": 10 * step, "seconds": seconds * step}
            lines += [{**row, "val/loss": 20 - slope * step}, {**row, "step": step + 1, "val/loss": math.nan}]
    return pd.DataFrame(lines), table({"variant": "mhc"}, {"variant": "baseline"})


def test_equal_steps_and_equal_time_can_disagree_about_the_winner() -> None:
    rows, runs = curves()
    by_step, by_time = at_equal(rows, runs, "equal-step"), at_equal(rows, runs, "equal-time")
    assert (by_step["at"].tolist(), by_step["value"].tolist()) == ([4, 4], [12, 16])
    assert (by_time["at"].tolist(), by_time["value"].tolist()) == ([8, 8], [pytest.approx(20 - 16 / 3), 12])
    assert at_equal(rows, runs, "equal-token", at=30)["value"].tolist() == [14, 17]
    assert paired(by_step, value="value")["mean"].tolist() == [-4]
    assert paired(by_time, value="value")["mean"].tolist() == [pytest.approx(8 / 3)]


def test_nothing_is_extrapolated_and_a_diverged_run_holds_nobody_back() -> None:
    rows, runs = curves()
    values = at_equal(rows, runs, at=7)["value"].tolist()
    assert math.isnan(values[0])
    assert values[1] == 13
    runs.loc[0, "status"] = "diverged"
    judged = at_equal(rows, runs)
    assert judged["at"].tolist() == [8, 8]
    assert math.isnan(judged["value"][0])
    assert judged["value"][1] == 12
    with pytest.raises(ValueError, match="equal-step, equal-token, equal-time"):
        at_equal(rows, runs, "equal-luck")


def test_a_run_that_has_just_begun_or_crashed_decides_nothing_once_others_are_done() -> None:
    rows, _ = curves()
    crashed = pd.DataFrame([{"run": "r2", "step": 0, "tokens": 0, "seconds": 0.0, "val/loss": 20.0}])
    for status in ("failed", "running", "killed"):
        lines = {"variant": "mhc"}, {"variant": "baseline"}, {"variant": "hc", "status": status}
        judged = at_equal(pd.concat([rows, crashed]), table(*lines))
        assert judged["at"].tolist() == [4, 4, 4]
        assert judged["value"].tolist()[:2] == [12, 16]
        assert math.isnan(judged["value"][2])
        compared = paired(judged, value="value").set_index("variant")
        assert compared.loc["mhc", "mean"] == -4
        assert (compared.loc["hc", "seeds"], compared.loc["hc", "unfinished"]) == (0, 1)
    nobody = at_equal(rows, table(*({"variant": v, "status": "running"} for v in ("mhc", "baseline"))))
    assert paired(nobody, value="value")["mean"].tolist() == [-4]


def test_any_other_column_is_compared_between_runs_that_are_done() -> None:
    runs = two([0.5, 0.6, 0.7], [0.1, 0.2, 0.3]).assign(accuracy=lambda runs: runs["score"])
    assert paired(runs, value="accuracy")["seeds"].tolist() == [3]
    runs.loc[0, "status"] = "running"
    assert paired(runs, value="accuracy")["seeds"].tolist() == [2]


def test_what_more_seeds_would_not_change_is_not_counted_in_seeds() -> None:
    dissent = verdict([-0.05] * 14 + [0.001])
    assert dissent == ("not distinguishable (14 of 15 seeds agree in sign)", None)
    assert verdict([1.0, -1.0]).text == "not distinguishable (they cancel out)"
    assert verdict([0.0, 0.0]).text == "not distinguishable (no difference at all)"
    assert verdict([math.nan, 1.0, 1.1, math.inf, 0.9]) == verdict([1.0, 1.1, 0.9])
