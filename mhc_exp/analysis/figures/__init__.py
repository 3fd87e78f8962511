"""Pictures across runs: the list that the report, the notebooks and the W&B dashboard share.

A picture averages over seeds only. Line: mean of the seeds that are done; band: smallest to largest of them. A run that
diverged or is not finished is drawn for itself and marked where it ends; captions count them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mhc_exp.analysis import style
from mhc_exp.analysis.figures import backends, cost, curves, depth, history, learning, rates, streams
from mhc_exp.analysis.figures.figure import Figure, Panel, Picture, Tables
from mhc_exp.analysis.load import load_tables
from mhc_exp.analysis.sources import Source

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

__all__ = ["FIGURES", "Figure", "Panel", "Picture", "Tables", "pictures", "save", "show", "tables_of"]

FIGURES: tuple[Figure, ...] = (
    *curves.FIGURES,
    *depth.FIGURES,
    *rates.FIGURES,
    *streams.FIGURES,
    *learning.FIGURES,
    *history.FIGURES,
    *cost.FIGURES,
    *backends.FIGURES,
)
"""Every picture there is, in the order in which a report shows them."""


def tables_of(source: Source | Sequence[Source]) -> Tables:
    """The tables of `source`, which is anything that `load_runs` takes."""
    return load_tables(source)


def pictures(tables: Tables) -> tuple[list[Picture], dict[str, str]]:
    """The pictures that these runs can give, and for every other one the reason why not."""
    found = {figure.name: figure.picture(tables) for figure in FIGURES}
    drawn = [picture for picture in found.values() if isinstance(picture, Picture)]
    return drawn, {name: reason for name, reason in found.items() if isinstance(reason, str)}


def show(picture: Picture) -> Drawing:
    """All panels of `picture` in one drawing, `picture.columns` beside each other."""
    columns = min(picture.columns, len(picture.panels))
    drawing, axes = style.figure(picture.title, math.ceil(len(picture.panels) / columns), columns)
    for panel, place in zip(picture.panels, axes, strict=False):
        panel.draw(place)
        place.set_title(panel.title, fontsize=10, loc="left")
    for place in axes[len(picture.panels) :]:
        place.set_axis_off()
    return drawing


def save(picture: Picture, directory: str | Path) -> Path:
    """Write `picture` to `directory`/<name>.png; the file."""
    return style.save(show(picture), Path(directory) / f"{picture.name}.png")
