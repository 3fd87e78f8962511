"""What wirings that read earlier outputs read: over training, and source by source when it ended."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mhc_exp.analysis import style
from mhc_exp.analysis.figures.curves import Measure, over_training
from mhc_exp.analysis.figures.figure import Figure, Panel, Picture, Tables
from mhc_exp.analysis.figures.inside import caption_without_band, inside
from mhc_exp.analysis.style import Level

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PREFIX = "history/weight_"
MISSING = "only wirings that read earlier outputs have it, such as attnres, every training.metrics_every steps"
ENTROPY = Measure("history/entropy", "entropy / log(sources)", False, (Level(1.0, "equal"),), "entropy", MISSING)
DISTANCE = Measure("history/mean_distance", "sublayers back, mean", False, (), "distance", MISSING)
LARGEST = Measure("history/largest", "share of the largest weight", False, (), "largest", MISSING)
WEIGHTS_TITLE = "What do the reads of earlier outputs read?"
WEIGHTS_MISSING = f"no run directory with weights of reads in layers.jsonl: {MISSING}; W&B has none"
ABSENT = "#D0D0D0"
"""Behind the hatching of what a read does not have."""
Table = Any


def _weights(tables: Tables) -> Picture | str:
    found = inside(tables, ("history/largest",), WEIGHTS_MISSING)
    if isinstance(found, str):
        return found
    arms, runs, wirings, more = found
    panels = []
    for one in wirings:
        last = one.layers[one.layers["step"] == one.layers.groupby("run")["step"].transform("max")]
        draw = partial(draw_weights, name=one.name, reads=sorted(last["connection"].unique()), weights=_by_source(last))
        panels.append(Panel(one.name, draw))
    shown = (
        "Weight of every source in every read when training ended, mean over tokens, ways and heads, depth "
        f"{runs['depth'].max():g}; a source is named by the number of sublayers that had run when it was made (0: the "
        f"embedding). Per channel in deep_cross_attention: mean size. Hatched: no such source.{more}"
    )
    return Picture("history_weights", WEIGHTS_TITLE, caption_without_band(arms, shown, runs), tuple(panels), 3)


def _by_source(layers: Table) -> np.ndarray:
    """[reads, places]: weights of one arm, mean over its runs; nan where a read has no such source."""
    places = sorted(int(column.removeprefix(PREFIX)) for column in layers if column.startswith(PREFIX))
    means = layers.groupby("connection")[[f"{PREFIX}{place}" for place in places]].mean().to_numpy(np.float64)
    used = [place for place, has in zip(places, ~np.isnan(means).all(axis=0), strict=True) if has]
    table = np.full((len(means), 1 + max(used, default=0)), np.nan)
    table[:, used] = means[:, [places.index(place) for place in used]]
    return table


def draw_weights(axes: Axes, name: str, reads: Sequence[float], weights: np.ndarray) -> None:
    """Heat map of weights [reads, places], the first read at the top; `reads` label the vertical axis.

    Places at which nothing was made (every second one where whole blocks are read) are left out; what a read does not
    have is hatched, because a weight of zero may be white.
    """
    made = np.flatnonzero(~np.isnan(weights).all(axis=0))
    shown = weights[:, made]
    lowest, highest = float(np.nanmin(shown)), float(np.nanmax(shown))
    largest = max(abs(lowest), abs(highest), 1e-12)
    style.dress(axes)
    axes.grid(visible=False)
    axes.patch.set(facecolor=ABSENT, edgecolor="white", hatch="////")
    look = ("PuOr_r", -largest) if lowest < 0 else ("cividis", 0.0)
    mesh = axes.pcolormesh(
        np.arange(len(made) + 1) - 0.5, np.arange(len(shown) + 1) - 0.5, shown, cmap=look[0], vmin=look[1], vmax=largest
    )
    mesh.set_label(f"{name}: weight")
    axes.invert_yaxis()
    _ticks(axes, made, reads)
    axes.set_xlabel("source: made after so many sublayers")
    axes.set_ylabel("read")
    bar = axes.figure.colorbar(mesh, ax=axes)
    bar.ax.tick_params(labelsize=8)
    bar.set_label("weight", fontsize=9)


def _ticks(axes: Axes, made: np.ndarray, reads: Sequence[float]) -> None:
    """At most eight names on each axis."""
    for labels, put in ((made, axes.set_xticks), (np.array(reads), axes.set_yticks)):
        chosen = np.arange(0, len(labels), -(-len(labels) // 8))
        put(chosen.tolist(), [f"{labels[index]:g}" for index in chosen])


FIGURES = (
    over_training(
        "history_reads",
        "How far back do the reads of earlier outputs reach?",
        "Entropy of the weights over the sources (0: one source has all, 1: all the same), how many sublayers ago the "
        "sources were made, and the share of the largest weight; mean over tokens, ways and the reads with several "
        "sources.",
        *(ENTROPY, DISTANCE, LARGEST),
    ),
    Figure("history_weights", WEIGHTS_TITLE, "source", ("history/largest",), _weights),
)
