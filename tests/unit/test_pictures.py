"""Pictures across runs, one by one: what lines, marks and maps carry is what the tables say."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("pandas")
pytest.importorskip("matplotlib")

from figure_cases import STEPS, drawn, labels, line, made, run, sweep, tables


def test_the_best_learning_rate_is_ringed_and_lost_runs_are_marked() -> None:
    lines = [run("mhc", lr=lr, level=level) for lr, level in ((1e-3, 3.0), (2e-3, 1.5), (4e-3, 2.0))]
    lines.append(run("mhc", lr=8e-3, status="diverged"))
    axes = drawn("learning_rate", tables(*lines))
    assert line(axes, "mhc").get_xdata().tolist() == [1e-3, 2e-3, 4e-3]
    assert line(axes, "mhc").get_ydata().tolist() == [3.0, 1.5, 2.0]
    points = {c.get_label(): c.get_offsets()[0].tolist() for c in axes.collections}
    assert points["mhc: best learning rate"] == [2e-3, 1.5]
    assert line(axes, "mhc: 1 of 1 diverged").get_xdata().tolist() == [8e-3]


def test_a_wiring_with_one_learning_rate_has_no_best_one() -> None:
    lines = [run("mhc", lr=lr, level=level) for lr, level in ((1e-3, 3.0), (2e-3, 1.5))]
    rings = labels(drawn("learning_rate", tables(run(), *lines)).collections)
    assert rings == ["baseline: only one learning rate", "mhc: best learning rate, at the high end of its grid"]


def test_differences_are_those_of_the_statistics() -> None:
    lines = [
        run(v, 12, s, level=2 + s - (v == "mhc") * (0.1 + 0.01 * s)) for v in ("baseline", "mhc") for s in range(3)
    ]
    axes = drawn("final_loss_against_depth", tables(*lines), 1)
    from mhc_exp.analysis.statistics import paired

    expected = paired(tables(*lines).runs).iloc[0]
    assert np.allclose(line(axes, "mhc").get_ydata(), [-0.11])
    (bar,) = [c for c in axes.collections if c.get_label() == "_band"]
    assert np.allclose(bar.get_segments()[0][:, 1], [expected["low"], expected["high"]])


def test_the_caption_of_the_differences_says_what_the_wirings_cost() -> None:
    more = {12: {"parameters": 123, "flops_per_token": 1.32}, 24: {"parameters": 124.2, "flops_per_token": 1.318}}
    lines = [run(v, depth, **cost) for depth, cost in more.items() for v in ("mhc", "hc")]
    lines += [run(depth=12), run(depth=24), run("light", parameters=99.5), run("unknown", parameters=math.nan)]
    said = made("final_loss_against_depth", tables(*lines)).caption
    assert "hc, mhc +23 to +24 % parameters and +32 % FLOPs per token; " in said
    assert "light -0.5 % parameters and +0.0 % FLOPs per token; unknown +0.0 % FLOPs per token." in said
    assert "Cost against" not in made("final_loss_against_depth", tables(run("mhc"))).caption


def test_a_heat_map_has_steps_to_the_right_and_connections_upward() -> None:
    lines = [run("mhc", 2, seed) for seed in range(2)]
    picture = made("mixing_heatmap", tables(*lines))
    assert [panel.title for panel in picture.panels] == ["mhc: mean diagonal", "mhc: smallest σ", "mhc: largest entry"]
    (mesh,) = drawn("mixing_heatmap", tables(*lines)).collections
    assert mesh.get_label() == "mhc: mean diagonal"
    values = mesh.get_array().reshape(4, 3)
    assert np.allclose(values, [[c + 100 * s for s in STEPS] for c in range(4)])
    corners = mesh.get_coordinates()
    assert corners[0, :, 0].tolist() == [-5, 5, 15, 25]
    assert corners[:, 0, 1].tolist() == [-0.5, 0.5, 1.5, 2.5, 3.5]
    (smallest,) = drawn("mixing_heatmap", tables(*lines), 1).collections
    assert np.allclose(smallest.get_array().reshape(4, 3)[:, 0], [1, 1 / 2, 1 / 3, 1 / 4])


def test_singular_values_and_entries_are_those_of_the_last_step() -> None:
    given = tables(run("mhc", 2))
    given.layers.loc[given.layers["step"] < 20, ["mix/sigma_2", "mix/entry_median"]] = 77.0
    assert np.allclose(line(drawn("singular_values", given), "mhc σ2").get_ydata(), [1, 1 / 2, 1 / 3, 1 / 4])
    axes = drawn("entries", given)
    assert np.allclose(line(axes, "mhc median").get_ydata(), 0.2)
    heights = sorted(
        (c.get_paths()[0].vertices[:, 1].min(), c.get_paths()[0].vertices[:, 1].max()) for c in axes.collections
    )
    assert np.allclose(heights, [(-0.1, 0.9), (0.1, 0.4)])


def test_quality_stands_against_the_median_time_of_a_step() -> None:
    axes = drawn("quality_against_time", tables(*sweep()))
    assert np.allclose(line(axes, "mhc").get_xdata(), [0.12, 0.24])
    assert np.allclose(line(axes, "mhc").get_ydata(), [2.1, 2.1])
    seconds = drawn("quality_against_time", tables(*sweep()), 1)
    assert np.allclose(line(seconds, "mhc").get_xdata(), [0, 24, 48])


def test_hops_are_the_axis_and_not_a_setting() -> None:
    lines = [run("mhc", **{"dataset.hops": h, "dataset.nodes": 8}, level=float(h)) for h in (1, 2, 4)]
    axes = drawn("solved_hops", tables(*lines))
    assert line(axes, "mhc").get_xdata().tolist() == [1, 2, 4]
    assert np.allclose(line(axes, "mhc").get_ydata(), [1 / 2, 1 / 3, 1 / 5])
    assert line(axes, "no pointer").get_ydata().tolist() == [1 / 8, 2 / 8, 3 / 8]  # 1, 2 and 3 divisors


def test_gains_are_logarithmic_and_wirings_without_streams_have_none() -> None:
    axes = drawn("gain", tables(*sweep()))
    assert axes.get_yscale() == "log"
    assert labels(axes.lines) == ["mhc"]
    ends = drawn("gain_against_depth", tables(*sweep()))
    assert line(ends, "mhc").get_ydata().tolist() == [21, 21]


def test_side_by_side_shows_the_largest_depth_only() -> None:
    titles = [panel.title for panel in made("head_to_head", tables(*sweep())).panels]
    assert titles == ["held-out loss, depth 24", "gradient norm, depth 24", "forward gain, depth 24"]
