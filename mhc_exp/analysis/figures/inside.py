"""What was measured of single connections, arm by arm, and heat maps of it over depth and training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mhc_exp.analysis import style
from mhc_exp.analysis.figures.arms import Arms, compared
from mhc_exp.analysis.figures.figure import Tables
from mhc_exp.analysis.figures.lines import caption
from mhc_exp.analysis.palette import Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ARMS = 6
CONNECTION = "connection (0 is the first)"
Grid = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Steps, connections, and values [connections, steps]."""
Table = Any


class Inside(NamedTuple):
    """What was measured of the connections of one arm."""

    name: str
    """The arm and its setting, and that it is not done if none of its runs is."""
    look: Look
    layers: Table


def inside(tables: Tables, columns: Sequence[str], missing: str) -> tuple[Arms, Table, list[Inside], str] | str:
    """The arms at the largest depth at which the first of `columns` was measured, their runs, and which arms were left
    out for lack of room; `missing` if the tables lack any of the columns.
    """
    import pandas as pd

    if not {*columns}.issubset(tables.layers.columns):
        return missing
    arms = compared(tables)
    if isinstance(arms, str):
        return arms
    measured: Table = tables.layers[tables.layers[columns[0]].notna()]
    runs = arms.runs[arms.runs["run"].isin(measured["run"])]
    if runs.empty:
        return missing
    runs = runs[runs["depth"] == runs["depth"].max()]
    found, kept = [], []
    for setting, group in runs.groupby("setting"):
        for arm, look, part in arms.by_arm(group):
            done = part[part["status"] == "done"]
            name = ", ".join(filter(None, (arm, setting, "" if len(done) else "not done")))
            used = done if len(done) else part
            found.append(Inside(name, look, measured[measured["run"].isin(used["run"])]))
            kept.append(part)
    more = f" The first {MOST_ARMS} of {len(found)} wirings." if len(found) > MOST_ARMS else ""
    return arms, pd.concat(kept[:MOST_ARMS]), found[:MOST_ARMS], more


def caption_without_band(arms: Arms, shown: str, runs: Table) -> str:
    """`figures.lines.caption` of a picture that has no band."""
    return caption(arms, shown, runs).replace("; the band (or bar) goes from the smallest to the largest of them", "")


def grid(layers: Table, column: str) -> Grid:
    """`column` of one arm, mean over its seeds, at the steps that every seed has (all steps, if they share none)."""
    steps = layers.groupby("step")["run"].nunique()
    common = layers[layers["step"].isin(steps[steps == layers["run"].nunique()].index)]
    wide = (common if len(common) else layers).groupby(["connection", "step"])[column].mean().unstack("step")
    return wide.columns.to_numpy(np.float64), wide.index.to_numpy(np.float64), wide.to_numpy(np.float64)


def span(grids: Sequence[Grid]) -> tuple[float, float]:
    """Smallest and largest value of several grids: the ends of their colour scale."""
    finite = np.concatenate([values[np.isfinite(values)] for _, _, values in grids])
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)


def heat_map(name: str, title: str, grid: Grid, span: tuple[float, float], axes: Axes) -> None:
    """Connections over steps."""
    from matplotlib.ticker import MaxNLocator

    steps, connections, values = grid
    style.dress(axes)
    axes.grid(visible=False)
    low, high = span
    mesh = axes.pcolormesh(
        edges(steps), edges(connections), values, cmap="cividis", vmin=low, vmax=max(high, low + 1e-6)
    )
    mesh.set_label(f"{name}: {title}")
    axes.set_xticks(ticks(steps))
    axes.set_xlabel("step")
    axes.set_ylabel(CONNECTION)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    bar = axes.figure.colorbar(mesh, ax=axes)
    bar.ax.tick_params(labelsize=8)
    bar.set_label(title, fontsize=9)


def ticks(steps: np.ndarray) -> list[float]:
    """At most six evenly spread ones of ascending `steps`: a tick names a step at which something was measured."""
    wanted = np.linspace(steps[0], steps[-1], 6)
    return np.unique(steps[np.abs(steps[:, None] - wanted).argmin(axis=0)]).tolist()


def edges(centres: np.ndarray) -> np.ndarray:
    """Borders of cells around ascending centres; one centre gets a cell of width 1."""
    if centres.size < 2:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])
