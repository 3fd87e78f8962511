"""What the page's script points at lies where the SVG was drawn, with the numbers that were drawn."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pandas")
pytest.importorskip("matplotlib")

from mhc_exp.analysis import style
from mhc_exp.analysis.figures import Panel
from mhc_exp.analysis.report.svg import drawn


def test_what_can_be_pointed_at_is_what_was_drawn() -> None:
    steps, cells_ = np.arange(5) * 100.0, np.arange(6.0).reshape(2, 3)

    def draw(axes: Any) -> None:
        axes.plot(steps, [1e-3, 0.1, np.nan, 10, 100], label="curve")
        axes.plot(steps, np.ones(5), label="_hidden")
        axes.scatter([50, 1e9], [1, 1], label="points")
        axes.plot([200], [1], "x", transform=axes.get_xaxis_transform(), label="diverged")
        axes.scatter([300], [0.9], transform=axes.get_xaxis_transform(), label="unfinished")
        axes.set(xlim=(0, 400), ylim=(1e-3, 100), yscale="log", xlabel="step", ylabel="loss")

    def heat(axes: Any) -> None:
        axes.pcolormesh(np.arange(4), np.arange(3), cells_, label="heat")

    points = drawn(Panel("t", draw), "p").points
    curve, lost, scatter, going = points["series"]
    assert (lost["x"], lost["y"]) == ([200], [None]), "a mark at the edge has no loss"
    assert (going["x"], going["y"]) == ([300], [None]), "of whatever kind it is"
    assert (curve["label"], curve["x"], curve["y"]) == ("curve", [0, 100, 300, 400], [0.001, 0.1, 10, 100])
    assert (curve["xname"], curve["yname"]) == ("step", "loss")
    assert (scatter["label"], scatter["x"], scatter["y"]) == ("points", [50], [1])
    assert np.ptp(np.diff(curve["left"]) / np.diff(curve["x"])) < 2e-3, "positions are linear in the steps"
    assert np.ptp(np.diff(curve["top"]) / np.diff(np.log(curve["y"]))) < 5e-2, "and in the logarithm of the loss"
    assert curve["top"][0] > curve["top"][-1], "the page counts from above"
    (mesh,) = drawn(Panel("t", heat), "p").points["series"]
    assert (mesh["value"], mesh["x"]) == ([0, 1, 2, 3, 4, 5], [0.5, 1.5, 2.5] * 2)
    assert mesh["y"] == [0.5] * 3 + [1.5] * 3


def test_the_mark_of_a_run_without_a_value_can_be_pointed_at_and_tells_none() -> None:
    curve, lost = (
        style.Curve("mhc", [12, 24], [2.5, 2.4]),
        style.Lost(48, "mhc: 1 of 1 diverged", "diverged", "#000000"),
    )
    draw = partial(style.draw, curves=[curve], ylabel="loss", ticks=[12, 24, 48], lost=[lost])
    mark = drawn(Panel("t", draw), "p").points["series"][-1]
    assert (mark["label"], mark["x"], mark["y"]) == ("mhc: 1 of 1 diverged", [48], [None])


def test_points_lie_on_the_line_of_the_svg() -> None:
    panel = drawn(Panel("t", lambda axes: axes.plot([0, 1, 2], [5, 1, 3], label="curve")), "p")
    (curve,) = panel.points["series"]
    candidates = re.findall(r'd="(M [^"]*)"', panel.svg)
    numbers = [np.array(re.findall(r"[ML] (\S+) (\S+)", one), float) for one in candidates]
    expected = np.column_stack([curve["left"], curve["top"]])
    assert any(one.shape == (3, 2) and np.allclose(one, expected, atol=0.06) for one in numbers)


def test_a_long_line_is_thinned_for_pointing_but_keeps_its_ends() -> None:
    x = np.arange(50_000.0)
    (curve,) = drawn(Panel("t", lambda axes: axes.plot(x, np.sin(x / 5e3), label="long")), "p").points["series"]
    assert 200 < len(curve["x"]) <= 1000
    assert (curve["x"][0], curve["x"][-1]) == (0, 49_999)
