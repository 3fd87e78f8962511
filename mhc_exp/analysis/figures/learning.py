"""What the connections learn: scales of the dynamic coefficients, and norms of their gradients, over training."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from mhc_exp.analysis.figures.curves import Measure, over_training
from mhc_exp.analysis.figures.figure import Figure, Panel, Picture, Tables
from mhc_exp.analysis.figures.inside import caption_without_band, grid, heat_map, inside, span

DIAGNOSED = "measured every training.metrics_every steps, by runs that say so in layers.jsonl"
ALPHA_MISSING = f"only wirings with dynamic coefficients have learned scales, {DIAGNOSED}"
PARTS = ("read", "write", "mix")
ALPHAS = tuple(
    Measure(f"alpha/{part}", f"|alpha| of the {part}, mean", title=f"alpha {part}", missing=ALPHA_MISSING)
    for part in PARTS
)
TANGENT = Measure(
    "grad/tangent_share",
    "share of |dL/dH| with zero sums",
    title="tangent share",
    missing=f"only wirings of family streams or looped with a learned H_res have it, {DIAGNOSED}",
)
GRADIENTS = tuple(f"grad/{part}" for part in PARTS)
GRADIENTS_TITLE = "Where do the connections get a gradient?"
Table = Any
GRADIENTS_MISSING = f"no run directory with gradients of connections in layers.jsonl ({DIAGNOSED}; W&B has none)"


def _gradients(tables: Tables) -> Picture | str:
    found = inside(tables, GRADIENTS[:1], GRADIENTS_MISSING)
    if isinstance(found, str):
        return found
    arms, runs, wirings, more = found
    columns = [column for column in GRADIENTS if column in tables.layers]
    panels = []
    for column in columns:
        title = f"log10 |g| of {column.removeprefix('grad/')}"
        have = [one for one in wirings if one.layers[column].notna().any()]
        grids = [grid(_logarithms(one.layers, column), column) for one in have]
        ends = span(grids) if grids else (0.0, 1.0)
        for one, values in zip(have, grids, strict=True):
            panels.append(Panel(f"{one.name}: {title}", partial(heat_map, one.name, title, values, ends)))
    shown = (
        "Norm of the gradient of what makes each connection's read, write and mix (a read of earlier outputs: all its "
        f"parameters), log10, on held-out tokens, depth {runs['depth'].max():g}; white: none at all. One colour scale "
        f"for each part.{more}"
    )
    return Picture("connection_gradients", GRADIENTS_TITLE, caption_without_band(arms, shown, runs), tuple(panels), 3)


def _logarithms(layers: Table, column: str) -> Table:
    """`layers` with log10 of `column`; nan where that is zero."""
    return layers.assign(**{column: np.log10(layers[column].where(layers[column] > 0))})


FIGURES = (
    over_training(
        "alpha",
        "How much of the coefficients becomes dynamic?",
        "Mean over the connections of the size of the learned scales (alpha) of the dynamic read, write and mix; HC's "
        "read and mix share one. A scale says nothing about the weights that it multiplies.",
        *ALPHAS,
    ),
    over_training(
        "tangent_share",
        "How much of the gradient can a doubly stochastic mixing follow?",
        "Norm of dL/dH_res without its row and column sums over the norm of all of it, all connections together, on "
        "held-out tokens; a gradient without preference has (S-1)/S. 0 while the streams are copies of each other.",
        TANGENT,
    ),
    Figure("connection_gradients", GRADIENTS_TITLE, "step", GRADIENTS, _gradients),
)
