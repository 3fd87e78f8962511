"""Pictures of watched history connections: what they mix at several steps, and how much of a state is history."""

from __future__ import annotations

from functools import partial

import numpy as np

from mhc_exp.analysis.figures.figure import Panel, Picture
from mhc_exp.analysis.figures.history import PREFIX, draw_weights
from mhc_exp.analysis.style import Level
from mhc_exp.analysis.watched.recorded import Stack
from mhc_exp.analysis.watched.shared import SHARED, Drawing, lines, map_of, picture
from mhc_exp.topology.inspection import selection

STEPS = 3
UNMEASURED = "no step was measured"


def _weights(stack: Stack) -> Picture | str:
    found = {int(name.removeprefix(PREFIX)): grid for name in stack.columns(PREFIX) if (grid := stack.grid(name))}
    if not found:
        return UNMEASURED
    steps = next(iter(found.values()))[0]
    panels = []
    for at in selection(len(steps), STEPS):
        table = np.full((len(stack.labels), 1 + max(found)), np.nan)
        for place, (own, _, values) in found.items():
            table[:, place] = values[:, np.searchsorted(own, steps[at])] if steps[at] in own else np.nan
        name = f"step {steps[at]:g}"
        panels.append(Panel(name, partial(draw_weights, name=name, reads=range(len(table)), weights=table)))
    said = (
        "Weight of every remembered state in every connection; a state is named by the number of connections that had "
        "run when it was made (0: what enters the stack). Hatched: no such state."
    )
    return Picture("history_weights", "Which states are mixed?", said, tuple(panels))


def _contribution(stack: Stack) -> Picture | str:
    panels = [
        map_of(stack, "history/contribution", "share of history in the new state"),
        map_of(stack, "history/mean_distance", "connections back, mean"),
        lines(stack, [("history/entropy", "mean")], "entropy / log(states)", [Level(1.0, "equal")]),
    ]
    said = (
        "Norm of the mixed history over the sum of its norm and that of the branch's output (1: the branch adds "
        "nothing); how many connections ago the states were made, by their weights; entropy of the weights over the "
        "states (0: one has all, 1: all the same), mean over connections with several states."
    )
    return picture("history_contribution", "How much of a state is history?", said, panels, UNMEASURED)


HISTORY = (Drawing("history_weights", _weights), Drawing("history_contribution", _contribution), *SHARED)
