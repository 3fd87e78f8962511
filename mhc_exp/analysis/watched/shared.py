"""Pictures of watched connections that streams and histories share: the training itself, and how gradients flow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from mhc_exp.analysis import style
from mhc_exp.analysis.figures.figure import Panel, Picture
from mhc_exp.analysis.figures.inside import Grid, heat_map, span
from mhc_exp.analysis.palette import BLUE, GREEN, ORANGE, VERMILLION, Dash
from mhc_exp.analysis.style import Curve, Level
from mhc_exp.analysis.watched.recorded import Stack
from mhc_exp.topology.inspection import selection

MOST = 400
"""Steps of a heat map: more than a panel is pixels wide."""
LOOKS: tuple[tuple[str, Dash, str], ...] = (
    (BLUE, "-", "o"),
    (ORANGE, "--", "s"),
    (VERMILLION, "-.", "^"),
    (GREEN, ":", "D"),
)
FLOW = "How does the gradient flow?"
TRAINING = "The training"


class Drawing(NamedTuple):
    """One picture of a stack: the picture, or why there is none."""

    name: str
    make: Callable[[Stack], Picture | str]


def lines(stack: Stack, columns: Sequence[tuple[str, str]], ylabel: str, levels: Sequence[Level] = ()) -> Panel | None:
    """Columns of metrics.jsonl (column, label) over steps; None if none of them was measured."""
    curves = []
    for (column, label), (color, dash, marker) in zip(columns, LOOKS, strict=False):
        steps, values = stack.records.series(column)
        if values:
            curves.append(Curve(label, steps, values, color, dash, marker))
    if not curves:
        return None
    return Panel(ylabel, partial(style.draw, curves=curves, ylabel=ylabel, levels=levels))


def map_of(
    stack: Stack, column: str, title: str, *, log: bool = False, within: tuple[float, float] | None = None
) -> Panel | None:
    """A column of layers.jsonl, connections over steps; None if it was never measured. The colours reach over `within`
    in any case, so that rounding does not fill the scale.
    """
    found = stack.grid(column)
    if found is None:
        return None
    steps, connections, values = thinned(found)
    if log:
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.where(values > 0, np.log10(values), np.nan)
        title = f"log10 {title}"
    grid = steps, connections, values
    low, high = span([grid])
    ends = (low, high) if within is None else (min(low, within[0]), max(high, within[1]))
    return Panel(title, partial(heat_map, stack.name, title, grid, ends))


def thinned(grid: Grid) -> Grid:
    """At most MOST of the steps, evenly spread."""
    steps, connections, values = grid
    kept = selection(len(steps), MOST)
    return steps[kept], connections, values[:, kept]


def picture(name: str, title: str, caption: str, panels: Sequence[Panel | None], missing: str) -> Picture | str:
    """Of the panels that there are; `missing` without any."""
    there = tuple(panel for panel in panels if panel is not None)
    return Picture(name, title, caption, there) if there else missing


def _training(stack: Stack) -> Picture | str:
    panels = [
        lines(stack, [("train/loss", "train"), ("val/loss", "validation")], "loss"),
        lines(stack, [("train/grad_norm", "all")], "gradient norm"),
        lines(stack, [("train/lr", "rate")], "learning rate"),
    ]
    said = "As it was given to the Watch; the gradient norm is that of all parameters of the model."
    return picture("training", TRAINING, said, panels, 'no loss: write row["train/loss"] = loss in `with watch.step()`')


def _flow(stack: Stack) -> Picture | str:
    parts = [name.removeprefix("grad/") for name in stack.columns("grad/")]
    norms = (map_of(stack, f"grad/{part}", f"|dL/d {part}|", log=True) for part in parts if part not in OTHER)
    handed_on = "|dL/dx| after a connection"
    panels = [map_of(stack, "grad/flow", handed_on, log=True), *norms]
    said = (
        "First panel: norm of the gradient of the loss by what each connection hands on (its streams, or the new "
        "state). The others: norm of the gradient of the parameters that make each part of a connection. White: "
        "exactly zero, or no gradient."
    )
    return picture("gradient_flow", FLOW, said, panels, "no backward pass inside `with watch.step()`")


OTHER = ("flow", "tangent_share")
"""Columns of gradients that are no norm of a part's parameters."""
SHARED = (Drawing("gradient_flow", _flow), Drawing("training", _training))


def made(stack: Stack, drawings: Sequence[Drawing]) -> Iterator[tuple[str, Picture | str]]:
    """Name and picture of each, the names unique among the stacks of a model."""
    behind = "" if stack.index is None else f"-{stack.index}"
    for drawing in drawings:
        found = drawing.make(stack)
        if isinstance(found, Picture) and behind:
            found = Picture(found.name + behind, f"{found.title} ({stack.name})", found.caption, found.panels)
        yield drawing.name + behind, found
