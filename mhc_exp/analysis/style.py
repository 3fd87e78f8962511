"""How pictures look: one style, readable in grayscale and without red-green vision, every curve labelled where it ends.

matplotlib is used through its objects (no pyplot, no global state) and imported only when a picture is drawn.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette (jfly.uni-koeln.de/color). The first three differ in lightness too, so they survive grayscale.
BLACK, BLUE, ORANGE, VERMILLION, GREEN = "#000000", "#0072B2", "#E69F00", "#D55E00", "#009E73"
GRAY = "#6B6B6B"

LABEL_GAP = 0.065
"""Least vertical distance of two end labels, in axes heights."""


@dataclass(frozen=True)
class Curve:
    """One measured quantity over steps."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]
    color: str = BLUE
    dash: str = "-"
    marker: str = "o"
    steplike: bool = False


@dataclass(frozen=True)
class Level:
    """A constant to compare curves with."""

    value: float
    label: str


def figure(title: str, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of equal panels under one title."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = (7.2, 4.2) if rows == columns == 1 else (4.6 * columns, 3.1 * rows)
    drawing = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(drawing)
    drawing.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    panels = drawing.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=9)
    return drawing, panels


def draw(
    axes: Axes,
    curves: Sequence[Curve],
    ylabel: str,
    *,
    log: bool | None = None,
    limits: tuple[float, float] | None = None,
    levels: Sequence[Level] = (),
) -> None:
    """Draw `curves` over steps with a label at each end, and dotted `levels`; without any value the panel says so.

    `log=None` chooses a logarithmic axis where positive values span more than a factor of 30.
    """
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("step")
    axes.set_ylabel(ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    curves = [curve for curve in curves if len(curve.values)]
    if not curves:
        axes.set_xticks([])
        axes.set_yticks([])
        note(axes, "no data")
        return
    for curve in curves:
        few = len(curve.values) <= 40
        axes.plot(
            curve.steps,
            curve.values,
            color=curve.color,
            linestyle=curve.dash,
            linewidth=1.8,
            marker=curve.marker if few else None,
            markersize=4,
            drawstyle="steps-post" if curve.steplike else "default",
        )
    values = [value for curve in curves for value in curve.values]
    if log is None:
        log = min(values) > 0 and max(values) > 30 * min(values)
    levels = [level for level in levels if level.value > 0 or not log]
    if log:
        axes.set_yscale("log")
    elif limits:
        axes.set_ylim(*limits)
    else:
        values += [level.value for level in levels]
        _open_limits(axes, min(values), max(values))
    for level in levels:
        axes.axhline(level.value, color=GRAY, linewidth=1.0, linestyle=":")
    _label_ends(axes, curves, levels)


def event(axes: Axes, step: float, text: str) -> None:
    """A vertical line at `step` with `text` along it."""
    axes.axvline(step, color=BLACK, linewidth=1.0, linestyle="--")
    left, right = axes.get_xlim()
    early = step < left + 0.1 * (right - left)
    axes.annotate(
        text,
        (step, 0.98),
        xycoords=("data", "axes fraction"),
        xytext=(3 if early else -3, 0),
        textcoords="offset points",
        rotation=90,
        ha="left" if early else "right",
        va="top",
        fontsize=8.5,
    )


def note(axes: Axes, text: str) -> None:
    """`text` in the middle of a panel."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GRAY, fontsize=11)


def save(drawing: Figure, file: Path) -> Path:
    """Write a PNG in one step, so that a reader never sees half a picture."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    drawing.savefig(unfinished, format="png", facecolor="white")
    os.replace(unfinished, file)
    return file


def readable(value: float) -> str:
    """Three or four significant digits, as a person would write them."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}"
    return f"{value:.2e}"


def _open_limits(axes: Axes, low: float, high: float) -> None:
    """Linear limits that do not blow up rounding noise of a constant curve to the height of the panel."""
    axes.ticklabel_format(axis="y", useOffset=False)
    least = 0.02 * max(abs(low), abs(high), 1e-12)
    if high - low < least:
        middle = (low + high) / 2
        axes.set_ylim(middle - 2 * least, middle + 2 * least)


def _label_ends(axes: Axes, curves: Sequence[Curve], levels: Sequence[Level]) -> None:
    """Name every curve at the height of its last value and every level at its own, pushed apart where two overlap."""
    axes.margins(x=0.02)
    axes.autoscale_view()  # limits are computed lazily, and the transform below does not ask for them
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = [(curve.values[-1], curve.label, BLACK if curve.color == ORANGE else curve.color) for curve in curves]
    ends += [(level.value, level.label, GRAY) for level in levels]
    heights = [float(to_axes.transform((0.0, value))[1]) for value, _, _ in ends]
    below = -math.inf
    for index in sorted(range(len(ends)), key=heights.__getitem__):
        below = max(heights[index], below + LABEL_GAP)
        value, label, color = ends[index]
        text = f"{label} {readable(value)}"
        axes.text(1.015, below, text, transform=axes.transAxes, va="center", fontsize=9, color=color)
