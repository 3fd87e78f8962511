"""Over training: loss, gradient norm, gain and excess, a panel per depth, the wirings as lines."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

from mhc_exp.analysis import style
from mhc_exp.analysis.figures.arms import Arms, compared
from mhc_exp.analysis.figures.figure import Figure, Panel, Picture, Tables
from mhc_exp.analysis.figures.lines import caption, over_steps, where
from mhc_exp.analysis.style import Level

IDENTITY = Level(1.0, "identity")
Table = Any


class Measure(NamedTuple):
    """A column of `rows` and how it is drawn."""

    column: str
    ylabel: str
    log: bool | None = None
    levels: tuple[Level, ...] = ()
    title: str = ""
    """Before the depth in the title of a panel, where one picture has several measures."""
    missing: str = ""
    """Why runs may not have it."""
    cut: bool = False
    """See `style.draw`."""


LOSS = Measure("val/loss", "held-out loss (nats per token)", title="held-out loss", cut=True)
CUT = "The beginning of the loss is cut off at the top, unless the axis is logarithmic."
GRAD_NORM = Measure("train/grad_norm", "gradient norm before clipping (L2)", title="gradient norm")
GAIN = Measure(
    "gain/forward_amax_max",
    "composite forward gain (Amax)",
    True,
    (IDENTITY,),
    "forward gain",
    "only wirings with streams have gains, measured every training.metrics_every steps",
)
EXCESS = Measure(
    "val/excess",
    "loss above the known floor (nats)",
    missing="only data sets with a known floor have it, such as dataset=noisy_increment",
)
COSINE = Measure("streams/cosine", "mean cosine between streams", title="cosine", missing=GAIN.missing)
EFFECTIVE = Measure(
    "streams/effective", "streams read by a sublayer (effective)", title="effective", missing=GAIN.missing
)
DOMINANT = Measure(
    "streams/dominant_share", "share of the longest stream", title="longest stream", missing=GAIN.missing
)


def panels(arms: Arms, rows: Table, measure: Measure, depths: list[int]) -> list[Panel]:
    """A panel per setting and depth at which something was measured."""
    found = []
    for setting in arms.settings():
        for depth in depths:
            runs = arms.runs[(arms.runs["setting"] == setting) & (arms.runs["depth"] == depth)]
            if curves := over_steps(arms, runs, rows, measure.column):
                draw = partial(style.draw, curves=curves, ylabel=measure.ylabel, log=measure.log, levels=measure.levels)
                found.append(Panel(where(depth, setting, measure.title), partial(draw, cut=measure.cut)))
    return found


def over_training(name: str, title: str, shown: str, *measures: Measure, deepest: bool = False) -> Figure:
    """A figure of `measures` over steps: for each a panel per depth, or only one at the largest depth."""

    def picture(tables: Tables) -> Picture | str:
        arms = compared(tables)
        if isinstance(arms, str):
            return arms
        depths = arms.depths()[-1:] if deepest else arms.depths()
        each = [panels(arms, tables.rows, measure, depths) for measure in measures]
        if not any(each):
            return unmeasured(*measures)
        runs = _drawn(arms.runs[arms.runs["depth"].isin(depths)], tables.rows, measures)
        columns = len(depths) if len(depths) > 1 else max(len(measures), *map(len, each))
        return Picture(name, title, caption(arms, shown, runs), tuple(chain(*each)), min(3, columns))

    return Figure(name, title, "step", tuple(measure.column for measure in measures), picture)


def _drawn(runs: Table, rows: Table, measures: Sequence[Measure]) -> Table:
    """The runs of wirings for which any of `measures` has a value: those that the picture shows."""
    measured: Table = rows[rows[[measure.column for measure in measures]].notna().any(axis=1)]
    return runs[runs["arm"].isin(runs["arm"][runs["run"].isin(measured["run"])])]


def unmeasured(*measures: Measure) -> str:
    """Why there is nothing to draw."""
    reasons = {measure.missing for measure in measures if measure.missing}
    return f"no run has {' or '.join(measure.column for measure in measures)}" + "".join(f": {why}" for why in reasons)


FIGURES = (
    over_training(
        "loss",
        "Held-out loss over training",
        "Loss on held-out data over training steps, a panel per depth, without the training loss. " + CUT,
        LOSS._replace(title=""),
    ),
    over_training(
        "grad_norm",
        "Gradient norm over training",
        "L2 norm of the whole gradient before it is clipped, on the batches that were logged.",
        GRAD_NORM._replace(title=""),
    ),
    over_training(
        "gain",
        "How much the residual mixing amplifies",
        "Largest row sum (Amax) over all products of residual mixing matrices from a connection to the end of the "
        "network, largest over tokens; 1 is what an identity does. It sees amplification only, not attenuation.",
        GAIN._replace(title=""),
    ),
    over_training(
        "excess",
        "Loss above what can be reached",
        "Held-out loss minus the entropy of the data, which is known for this data set; 0 is perfect.",
        EXCESS,
    ),
    over_training(
        "head_to_head",
        "All wirings side by side at the largest depth",
        "Held-out loss, gradient norm before clipping and composite forward gain at the largest depth; wirings "
        "without streams have no gain. " + CUT,
        *(LOSS, GRAD_NORM, GAIN),
        deepest=True,
    ),
)
