"""Pictures across runs: what is averaged, and what they do whatever the tables are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pandas")
pytest.importorskip("matplotlib")

from figure_cases import STEPS, drawn, labels, line, made, reason, run, sweep, tables
from matplotlib.colors import to_rgba
from overlap_cases import assert_no_overlap

from mhc_exp.analysis.palette import KNOWN

# --- means, bands and runs that are not done -------------------------------------------------------------------------


def test_the_line_is_the_mean_of_the_seeds_and_the_band_their_range() -> None:
    axes = drawn("loss", tables(*sweep()))
    curve = line(axes, "mhc")
    assert curve.get_xdata().tolist() == [*STEPS]
    assert np.allclose(curve.get_ydata(), [3.1, 2.6, 2.1])
    area = axes.collections[0].get_paths()[0].vertices
    assert np.allclose([area[:, 1].min(), area[:, 1].max()], [2.0, 3.2])
    at_the_end = area[area[:, 0] == 20][:, 1]
    assert np.allclose([at_the_end.min(), at_the_end.max()], [2.0, 2.2])
    assert (
        "Mean over 3 seeds; the band (or bar) goes from the smallest to the largest"
        in made("loss", tables(*sweep())).caption
    )


def test_the_first_tenth_of_the_loss_is_cut_off_and_the_caption_says_so() -> None:
    given = tables(
        run(level=2.1), run("mhc", level=2.0), run("hc", status="diverged"), steps={"hc-d12-s0-0.001-": (0,)}
    )
    first = given.rows["step"] == 0
    given.rows.loc[first, "val/loss"] = [5.5, 5.5, 5.7]
    given.rows.loc[~first, "val/loss"] = [2.2, 2.1, 2.1, 2.0]
    for name, panel in (("loss", 0), ("head_to_head", 0), ("quality_against_time", 1)):
        assert drawn(name, given, panel).get_ylim()[1] > 5.7, "where a run ended, its mark is seen"
    done = given._replace(runs=given.runs[given.runs["status"] == "done"])
    for name, panel in (("loss", 0), ("head_to_head", 0), ("quality_against_time", 1)):
        low, high = drawn(name, done, panel).get_ylim()
        assert 1.9 < low < 2.0 < 2.2 < high < 2.3
        assert "cut off at the top" in made(name, done).caption
    done.rows.loc[~first, "val/loss"] /= 100
    assert drawn("loss", done).get_ylim()[1] > 5.5, "a logarithmic axis has room for all"


def test_one_seed_has_no_band_and_the_caption_says_so() -> None:
    given = tables(*sweep(seeds=1))
    assert not drawn("loss", given).collections
    assert "One seed" in made("loss", given).caption


def test_a_panel_per_depth_in_ascending_order() -> None:
    assert [panel.title for panel in made("loss", tables(*reversed(sweep()))).panels] == ["depth 12", "depth 24"]


def test_a_diverged_run_ends_with_a_mark_and_is_in_no_mean() -> None:
    lost = run("mhc", seed=1, status="diverged", level=50.0)
    given = tables(run("mhc"), lost, steps={lost["run"]: (0, 10)})
    axes = drawn("loss", given)
    assert np.allclose(line(axes, "mhc").get_ydata(), [3.0, 2.5, 2.0])
    assert line(axes, "mhc, seed 1, diverged").get_xdata().tolist() == [0, 10]
    (mark,) = [c for c in axes.collections if c.get_label() == "mhc, seed 1, diverged"]
    assert mark.get_offsets().tolist() == [[10, 50.5]]
    assert to_rgba(KNOWN["mhc"].color) == tuple(mark.get_facecolor()[0])
    assert "2 runs, 1 diverged" in made("loss", given).caption


@pytest.mark.parametrize("status", ["running", "failed", "interrupted", "killed", "unknown"])
def test_a_run_that_is_not_finished_has_an_open_end(status: str) -> None:
    going = run("mhc", seed=1, status=status)
    given = tables(run("mhc"), going, steps={going["run"]: (0, 10)})
    axes = drawn("loss", given)
    assert line(axes, f"mhc, seed 1, {status}").get_xdata().tolist() == [0, 10]
    (mark,) = axes.collections
    assert tuple(mark.get_facecolor()[0]) == (1, 1, 1, 1)
    assert "1 not finished" in made("loss", given).caption


def test_where_nothing_is_done_the_run_that_got_farthest_carries_the_name() -> None:
    going = [run("mhc", seed=seed, status="running") for seed in range(2)]
    axes = drawn("loss", tables(*going, steps={going[0]["run"]: (0,)}))
    assert line(axes, "mhc (unfinished)").get_xdata().tolist() == [*STEPS]
    assert "mhc (unfinished)" in [text.get_text() for text in axes.texts]


def test_against_depth_a_run_without_a_value_is_a_mark_above_the_scale() -> None:
    lines = [*sweep(), run("mhc", 48, 0, status="diverged"), run("mhc", 48, 1, status="running"), run(depth=48)]
    axes = drawn("final_loss_against_depth", tables(*lines))
    curve = line(axes, "mhc")
    assert curve.get_xdata().tolist() == [12, 24]
    assert np.allclose(curve.get_ydata(), 2.1)
    marks = [line(axes, f"mhc: 1 of 2 {ending}") for ending in ("diverged", "unfinished")]
    assert [mark.get_xdata().tolist() for mark in marks] == [[48], [48]]
    assert [mark.get_markerfacecolor() for mark in marks] == [KNOWN["mhc"].color, "white"]
    assert_above_the_scale(axes, marks)
    heights = [mark.get_ydata()[0] for mark in marks]
    assert heights[0] > heights[1], "one below the other"
    assert_no_overlap(made("final_loss_against_depth", tables(*lines)).panels[0])


@pytest.mark.parametrize("gain", [1e1, 1e2, 1e6])
def test_no_tick_or_grid_line_of_a_logarithmic_scale_reaches_the_marks(gain: float) -> None:
    lost = run("mhc", 48, status="diverged")
    given = tables(run("mhc"), run("mhc", 24), lost)
    column = "gain/forward_amax_max"
    given.rows[column] = given.rows[column].where(given.rows["run"].str.contains("d12"), gain)
    axes = drawn("gain_against_depth", given)
    assert axes.get_yscale() == "log"
    assert_above_the_scale(axes, [line(axes, "mhc: 1 of 1 diverged")])


def test_however_many_runs_are_lost_at_one_place_their_marks_stay_above_the_scale() -> None:
    names = [f"wiring_{n}" for n in range(12)]
    axes = drawn("final_loss_against_depth", tables(run(), *(run(name, status="diverged") for name in names)))
    assert_above_the_scale(axes, [line(axes, f"{name}: 1 of 1 diverged") for name in names])


def assert_above_the_scale(axes: Any, marks: list[Any]) -> None:
    """No mark has a height in data, nor is there a tick, a grid line or a spine at its height."""
    axes.figure.canvas.draw()
    lowest = min(mark.get_transform().transform(mark.get_xydata())[0, 1] for mark in marks)
    top = axes.transData.transform((0, axes.spines["left"].get_bounds()[1]))[1]
    ticks = [axes.transData.transform((1, tick))[1] for minor in (False, True) for tick in axes.get_yticks(minor=minor)]
    assert max(*ticks, top) < lowest - 5
    assert not any(mark.get_transform().contains_branch_seperately(axes.transData)[1] for mark in marks)


def test_where_no_run_has_a_value_there_is_no_scale() -> None:
    lost = run("mhc", status="diverged", score=math.nan)
    axes = drawn("final_loss_against_depth", tables(lost))
    assert line(axes, "mhc: 1 of 1 diverged").get_xdata().tolist() == [12]
    assert not len(axes.get_yticks())


# --- nothing is averaged that differs --------------------------------------------------------------------------------


def test_several_learning_rates_become_the_best_one_and_the_caption_says_so() -> None:
    lines = [run("mhc", seed=s, lr=lr, level=level + s) for s in (0, 1) for lr, level in ((1e-3, 3.0), (4e-3, 1.0))]
    given = tables(*lines)
    assert np.allclose(line(drawn("loss", given), "mhc").get_ydata(), [2.5, 2.0, 1.5])
    assert "best of several learning rates" in made("loss", given).caption
    assert "2 runs at others" in made("loss", given).caption


def test_where_every_rate_diverged_the_runs_are_still_shown() -> None:
    lines = [run("mhc", lr=lr, status="diverged", score=math.nan) for lr in (1e-3, 4e-3)]
    given = tables(run(), *lines)
    given.rows["val/loss"] = given.rows["val/loss"].fillna(5.0)
    assert "mhc (diverged)" in labels(drawn("loss", given).lines)
    assert "at no rate one has ended" in made("loss", given).caption


def test_a_key_of_the_variant_that_was_varied_makes_wirings_of_their_own() -> None:
    lines = [run("mhc", streams_level=n, **{"variant.streams": n}, level=float(n)) for n in (2, 10)]
    axes = drawn("loss", tables(run(), *lines))
    assert labels(axes.lines) == ["baseline", "mhc streams=2", "mhc streams=10"]
    assert np.allclose(line(axes, "mhc streams=10").get_ydata(), [11, 10.5, 10])


def test_another_key_that_was_varied_makes_panels_of_their_own() -> None:
    lines = [run(v, **{"model.width": w}, level=w / 64) for v in ("baseline", "mhc") for w in (64, 128)]
    picture = made("loss", tables(*lines))
    assert [panel.title for panel in picture.panels] == ["depth 12, width=128", "depth 12, width=64"]
    assert np.allclose(line(drawn("loss", tables(*lines), 0), "mhc").get_ydata()[-1], 2.0)


def test_too_many_differences_are_a_reason_that_names_them() -> None:
    keys = [f"model.key{n}" for n in range(4)]
    lines = [run(run=str(n), **dict.fromkeys(keys, n)) for n in range(2)]
    assert all(key in reason("loss", tables(*lines)) for key in keys)
    widths = [run(**{"model.width": w}) for w in range(10)]
    assert "model.width make 10 settings" in reason("loss", tables(*widths))


def test_a_difference_between_wirings_that_no_panel_shows_is_in_the_caption() -> None:
    lines = [run(**{"training.steps": 20}), run("mhc", **{"training.steps": 40})]
    assert "Also different between wirings: training.steps." in made("loss", tables(*lines)).caption


def test_one_learning_rate_for_each_wiring_is_said_if_it_is_not_the_same() -> None:
    lines = [run("baseline", lr=1e-3), run("mhc", lr=2e-3)]
    assert "Also different between wirings: optimizer.lr." in made("loss", tables(*lines)).caption
    assert "optimizer.lr" not in made("loss", tables(run("baseline"), run("mhc"))).caption
    chosen = made("loss", tables(*lines, run("mhc", lr=4e-3, level=3.0))).caption
    assert "best of several learning rates" in chosen
    assert "Also different" not in chosen


def test_the_same_experiment_twice_counts_once() -> None:
    given = tables(run(), run(run="again"), run(run="running", status="running"))
    assert not drawn("loss", given).collections
    assert "2 runs left out, the same experiment again" in made("loss", given).caption
