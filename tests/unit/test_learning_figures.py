"""Pictures of scales, gradients and reads of earlier outputs: what they carry is what the tables say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("pandas")
pytest.importorskip("matplotlib")

import pandas as pd

from mhc_exp.analysis import style
from mhc_exp.analysis.figures import FIGURES, Picture, Tables, pictures, show
from mhc_exp.analysis.palette import looks
from mhc_exp.analysis.rows import COLUMNS
from mhc_exp.topology.catalogue.history import ENTRIES

STEPS = (0, 10)


def tables(*runs: tuple[str, int], rows: dict[str, Any], layers: dict[str, list[float | None]]) -> Tables:
    """Runs (variant, seed) of depth 1; every step has `rows`, plus the seed, and `layers`."""
    names = [f"{variant}-{seed}" for variant, seed in runs]
    lines = [
        {"run": name, "variant": variant, "depth": 1, "seed": seed, "status": "done", "score": 1.0, "step": STEPS[-1],
         "backend": "cpu", "dataset": "increment", "optimizer.lr": 1e-3}
        for name, (variant, seed) in zip(names, runs, strict=True)
    ]  # fmt: skip
    measured = [
        {"run": line["run"], "step": step, **{column: value + line["seed"] for column, value in rows.items()}}
        for line in lines
        for step in STEPS
    ]
    connections = [
        {"run": line["run"], "step": step, "connection": index, **{name: many[index] for name, many in layers.items()}}
        for line in lines
        for step in STEPS
        for index in range(len(next(iter(layers.values()))))
    ]
    return Tables(pd.DataFrame(measured, columns=["run", *COLUMNS]), pd.DataFrame(lines), pd.DataFrame(connections))


def made(name: str, given: Tables) -> Picture:
    (figure,) = [figure for figure in FIGURES if figure.name == name]
    picture = figure.picture(given)
    assert isinstance(picture, Picture), picture
    show(picture).canvas.draw()
    return picture


def drawn(picture: Picture, panel: int = 0) -> Any:
    _, (axes,) = style.figure("")
    picture.panels[panel].draw(axes)
    return axes


STREAMS = {"grad/read": [1e-3, 1e-2], "grad/write": [0.1, 1.0], "grad/mix": [0.0, 1e-6]}


def test_alphas_are_means_over_seeds_a_panel_for_each_part() -> None:
    rows = {"alpha/read": 1.0, "alpha/write": 2.0, "alpha/mix": 3.0}
    picture = made("alpha", tables(("mhc", 0), ("mhc", 1), rows=rows, layers=STREAMS))
    assert [panel.title.partition(",")[0] for panel in picture.panels] == ["alpha read", "alpha write", "alpha mix"]
    (curve,) = [line for line in drawn(picture, 1).lines if line.get_label() == "mhc"]
    assert curve.get_ydata().tolist() == [2.5, 2.5]
    assert "Mean over 2 seeds" in picture.caption


def test_gradients_are_logarithms_by_connection_and_nothing_where_there_is_none() -> None:
    picture = made("connection_gradients", tables(("mhc", 0), rows={}, layers=STREAMS))
    assert [panel.title for panel in picture.panels] == [
        f"mhc: log10 |g| of {part}" for part in ("read", "write", "mix")
    ]
    (read,), (mix,) = drawn(picture, 0).collections, drawn(picture, 2).collections
    np.testing.assert_allclose(read.get_array(), [[-3, -3], [-2, -2]])
    assert np.ma.getmaskarray(mix.get_array()).tolist() == [[True, True], [False, False]]


def test_a_wiring_without_writes_has_no_panel_of_them() -> None:
    both = tables(("mhc", 0), ("attnres", 0), rows={}, layers=STREAMS)
    layers = both.layers.assign(**{"grad/read": 0.5})
    layers.loc[layers["run"] == "attnres-0", ["grad/write", "grad/mix"]] = np.nan
    titles = [panel.title for panel in made("connection_gradients", both._replace(layers=layers)).panels]
    assert [title for title in titles if title.startswith("attnres")] == ["attnres: log10 |g| of read"]
    assert len(titles) == 4


def test_a_caption_tells_the_differences_of_the_runs_that_are_shown() -> None:
    """The picture shows the largest depth alone, and of two runs there only the one with gradients."""
    given = tables(("mhc", 0), ("mhc", 1), ("baseline", 0), rows={}, layers=STREAMS)
    given.runs["depth"] = [1, 2, 2]
    given.runs["training.steps"] = [10, 20, 40]
    shown = given._replace(layers=given.layers[given.layers["run"] != "baseline-0"])
    assert "Also different" not in made("connection_gradients", shown).caption
    assert "Also different between wirings: training.steps." in made("connection_gradients", given).caption


def test_only_runs_that_have_a_line_are_counted() -> None:
    given = tables(("mhc", 0), ("baseline", 0), rows={"alpha/read": 1.0}, layers=STREAMS)
    given.rows.loc[given.rows["run"] == "baseline-0", "alpha/read"] = np.nan
    assert "1 run." in made("alpha", given).caption


@pytest.mark.parametrize("steps", [(0,), (0, 10), (0, 4, 8, 12), tuple(range(0, 2001, 40)), (0, 1, 2, 1000)])
def test_ticks_of_a_heat_map_are_steps_at_which_something_was_measured(steps: tuple[int, ...]) -> None:
    one = tables(("mhc", 0), rows={}, layers=STREAMS)
    first = one.layers[one.layers["step"] == 0]
    layers = pd.concat([first.assign(step=step) for step in steps])
    marked = drawn(made("connection_gradients", one._replace(layers=layers))).get_xticks().tolist()
    assert {*marked} <= {*steps}
    assert marked[0] == steps[0]
    assert marked[-1] == steps[-1]
    assert len(marked) <= 6


READS = {"history/largest": [1.0, 0.8], "history/weight_0": [0.2, -0.4], "history/weight_2": [None, 0.6]}


def test_the_weights_at_the_end_are_a_map_of_reads_and_places() -> None:
    given = tables(("denseformer", 0), rows={}, layers=READS)
    given.layers.loc[given.layers["step"] == 0, "history/weight_0"] = 77.0
    axes = drawn(made("history_weights", given))
    (mesh,) = [found for found in axes.collections if found.get_label() == "denseformer: weight"]
    values = mesh.get_array()
    assert values[0, 0] == 0.2
    assert values[1].tolist() == [-0.4, 0.6]
    assert np.ma.getmaskarray(values)[0].tolist() == [False, True]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "2"], "nothing was made at 1"
    assert mesh.get_clim() == (-0.6, 0.6)
    assert mesh.colorbar.ax.get_ylabel() == "weight"


def test_a_source_that_is_not_there_does_not_look_like_one_without_weight() -> None:
    axes = drawn(made("history_weights", tables(("denseformer", 0), rows={}, layers=READS)))
    (mesh,) = axes.collections
    background = axes.patch.get_facecolor()[:3]
    assert axes.patch.get_hatch()
    assert max(np.abs(np.array(mesh.cmap(mesh.norm(0.0))[:3]) - background)) > 0.1
    assert "hatched" in made("history_weights", tables(("denseformer", 0), rows={}, layers=READS)).caption.lower()


def test_reads_over_training_have_three_panels() -> None:
    rows = {"history/entropy": 0.5, "history/mean_distance": 2.0, "history/largest": 0.7}
    picture = made("history_reads", tables(("attnres", 0), rows=rows, layers=READS))
    assert len(picture.panels) == 3
    (curve,) = [line for line in drawn(picture, 1).lines if line.get_label() == "attnres"]
    assert curve.get_ydata().tolist() == [2.0, 2.0]


def test_lines_of_reads_differ_in_colour() -> None:
    names = [entry.name for entry in ENTRIES]
    assert len({look.color for look in looks(names).values()}) == len(names)
    windows = [f"history window={size}" for size in range(2, 9)]
    assert len({look.color for look in looks(windows).values()}) == len(windows)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("alpha", "only wirings with dynamic coefficients"),
        ("tangent_share", "family streams"),
        ("connection_gradients", "layers.jsonl"),
        ("history_reads", "such as attnres"),
        ("history_weights", "layers.jsonl"),
    ],
)
def test_runs_that_did_not_measure_it_have_a_reason(name: str, said: str) -> None:
    bare = tables(("mhc", 0), rows={"val/loss": 1.0}, layers={"mix/diagonal": [1.0]})
    assert said in pictures(bare)[1][name]
