"""Pictures of watched stream connections: mixing over training, gains, streams in use, learned scales."""

from __future__ import annotations

from functools import partial

import numpy as np

from mhc_exp.analysis.figures.figure import Panel, Picture
from mhc_exp.analysis.figures.matrices import shades_of_mixing, tiles
from mhc_exp.analysis.style import Level
from mhc_exp.analysis.watched.recorded import Stack
from mhc_exp.analysis.watched.shared import SHARED, Drawing, lines, map_of, picture
from mhc_exp.topology.inspection import selection

MATRICES = 6
"""Connections whose matrices are drawn, and steps at which."""
IDENTITY = Level(1.0, "kept")
NEAR = (0.95, 1.05)
UNMEASURED = "no step with finite streams was measured"


def _matrices(stack: Stack) -> Picture | str:
    streams = int(stack.facts["streams"])
    grids = [stack.grid(f"mix/mean_{i}_{j}") for i, j in np.ndindex(streams, streams)]
    there = [grid for grid in grids if grid is not None]
    if len(there) < len(grids):
        return UNMEASURED
    steps = there[0][0]
    mixes = np.stack([values for _, _, values in there], axis=-1).reshape(*there[0][2].shape, streams, streams)
    chosen, at = selection(len(stack.labels), MATRICES), selection(len(steps), MATRICES)
    shown = mixes[np.ix_(chosen, at)]
    ran = np.isfinite(shown).all(axis=(1, 2, 3))
    if not ran.any():
        return UNMEASURED
    shades = shades_of_mixing(shown[ran].reshape(-1, streams, streams))
    panels = [
        Panel(
            f"connection {index}: {stack.labels[index]}",
            partial(tiles, steps=steps[at].tolist(), shades=shades._replace(matrices=part)),
        )
        for index, part in zip(np.array(chosen)[ran].tolist(), shades.matrices.reshape(shown[ran].shape), strict=True)
    ]
    said = (
        f"{shades.title}; the number below is the step. One colour scale; {len(panels)} of {len(stack.labels)} "
        "connections and at most six steps, evenly spread."
    )
    return Picture("mixing", "What do the connections mix, over training?", said, tuple(panels))


def _mixing(stack: Stack) -> Picture | str:
    smallest = f"mix/sigma_{stack.facts['streams']}"
    panels = [
        map_of(stack, "mix/identity_distance", "distance of H_res from I"),
        map_of(stack, "mix/diagonal", "mean diagonal of H_res"),
        map_of(stack, smallest, "smallest singular value"),
    ]
    said = (
        "Of H_res, mean over tokens: its Frobenius distance from the identity over sqrt(S), its mean diagonal entry, "
        "and its smallest singular value (1: nothing is lost, 0: all streams become one)."
    )
    return picture("mixing_over_training", "How far is the mixing from none?", said, panels, UNMEASURED)


def _gains(stack: Stack) -> Picture | str:
    whole = [("gain/forward_amax_max", "forward"), ("gain/backward_amax_max", "backward")]
    panels = [
        lines(stack, whole, "largest composite gain", [IDENTITY]),
        map_of(stack, "gain/composite_forward", "forward gain to the end", within=NEAR),
        map_of(stack, "gain/composite_backward", "backward gain to the end", within=NEAR),
    ]
    said = (
        "Gains of the products of H_res from a connection to the end of its stack (Amax: largest absolute row sum "
        "forward, column sum backward). First panel: the largest of any connection and token; heat maps: mean over "
        "tokens."
    )
    return picture("gains", "Do the products of H_res amplify?", said, panels, UNMEASURED)


def _streams(stack: Stack) -> Picture | str:
    count = float(stack.facts["streams"])
    used = [("streams/effective", "read"), ("streams/effective_write", "write")]
    longest = [("streams/dominant_share", "mean"), ("streams/dominant_share_max", "worst")]
    panels = [
        lines(stack, used, "streams in use", [Level(count, "all")]),
        lines(stack, [("streams/cosine", "mean")], "cosine between streams"),
        lines(stack, longest, "share of the longest stream", [Level(1 / count, "equal")]),
        map_of(stack, "streams/effective", "streams read"),
        map_of(stack, "streams/cosine", "cosine between streams"),
        map_of(stack, "streams/dominant_share", "share of the longest stream"),
    ]
    said = (
        "How many streams a branch reads from and writes to (1: one, S: all alike), mean cosine of two streams after a "
        "connection (1: all streams point the same way), and the share of the longest stream in the sum of all norms. "
        "Above: mean over connections; below: each of them."
    )
    return picture("streams_in_use", "Are all streams in use?", said, panels, UNMEASURED)


def _scales(stack: Stack) -> Picture | str:
    parts = ("read", "write", "mix")
    start = [Level(float(stack.facts["alpha"]), "start")]
    maps = [map_of(stack, f"alpha/{part}", f"alpha of {part}") for part in parts]
    panels = [lines(stack, [(f"alpha/{part}", part) for part in parts], "mean |alpha|", start), *maps]
    said = "Learned scale of the dynamic part of H_pre (read), H_post (write) and H_res (mix)."
    missing = "coefficients are static: there is no alpha"
    return picture("scales", "How much do coefficients depend on the token?", said, panels, missing)


STREAMS = (
    Drawing("mixing", _matrices),
    Drawing("mixing_over_training", _mixing),
    Drawing("gains", _gains),
    Drawing("streams_in_use", _streams),
    *SHARED[:1],
    Drawing("scales", _scales),
    *SHARED[1:],
)
