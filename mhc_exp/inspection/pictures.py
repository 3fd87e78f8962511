"""The pictures of `mhc-exp inspect`: matrices as small multiples, everything else over depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mhc_exp.analysis import style
from mhc_exp.analysis.figures.matrices import Shades, shades_of_mixing
from mhc_exp.analysis.palette import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION
from mhc_exp.analysis.style import Curve, Level
from mhc_exp.inspection.measured import Lines, Measured
from mhc_exp.topology.inspection import selection

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

LOOKS = ((BLUE, "-", "o"), (ORANGE, "--", "s"), (VERMILLION, "-.", "^"), (GREEN, ":", "D"), (PURPLE, "-", "v"))
NUMBERED = 4
"""Streams up to which the entries of a heat map are written into it."""
COLUMNS = 6


def _cosines(measured: Measured) -> Figure:
    shades = Shades(measured.cosine, "cosine between streams after the connection", float(measured.cosine.min()), 1.0)
    return _matrices(measured, shades)


def _matrices(measured: Measured, shades: Shades) -> Figure:
    """Heat maps [S, S] of at most 24 connections, under one colour scale."""
    chosen = selection(len(shades.matrices))
    columns = min(COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    drawing, panels = style.figure(f"{measured.title}\n{shades.title}", rows, columns)
    drawing.set_size_inches(max(1.75 * columns, 6.5), 1.85 * rows + 0.8)
    image = None
    for axes, index in zip(panels, chosen, strict=False):
        matrix = shades.matrices[index]
        image = axes.imshow(matrix, cmap=shades.cmap, vmin=shades.low, vmax=shades.high)
        axes.set_title(f"{index} {measured.wrapped[index]}", fontsize=8.5)
        axes.spines[:].set_visible(False)
        axes.grid(visible=False)
        axes.set_xticks([])
        axes.set_yticks([])
        if len(matrix) <= NUMBERED:
            _entries(axes, matrix, image)
    for axes in panels[len(chosen) :]:
        axes.set_axis_off()
    if image is not None:
        drawing.colorbar(image, ax=panels, shrink=0.8, pad=0.01).ax.tick_params(labelsize=8)
    return drawing


def _entries(axes: Axes, matrix: np.ndarray, image: AxesImage) -> None:
    """The entries as numbers, black on light cells and white on dark ones."""
    for (row, column), value in np.ndenumerate(matrix):
        red, green, blue, _ = image.cmap(image.norm(value))
        color = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.45 else "white"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color=color)


def _mixing(measured: Measured) -> Figure:
    lines, streams = measured.lines, measured.mix.shape[-1]
    drawing, panels = style.figure(f"{measured.title}: mixing over depth", 2, 3)
    _over_depth(
        panels[0],
        {"from I": lines["mix/identity_distance"], "from its start": lines["mix/moved"]},
        "distance of H_res / sqrt(S)",
    )
    spread = {name: lines[f"{name}/spread"] for name in ("mix", "read", "write")}
    _over_depth(panels[1], spread, "spread over tokens / mean")
    _over_depth(panels[2], {"": lines["mix/residual"]}, "largest |row or column sum - 1|")
    sigma = {f"sigma_{i}": lines[f"mix/sigma_{i}"] for i in range(1, streams + 1)}
    _over_depth(panels[3], sigma, "singular values of H_res")
    single = {"forward": lines["gain/forward_amax"], "backward": lines["gain/backward_amax"]}
    _over_depth(panels[4], single, "gain of one connection", levels=[Level(1.0, "kept")])
    composite = {"forward": lines["gain/composite_forward"], "backward": lines["gain/composite_backward"]}
    _over_depth(panels[5], composite, "gain from here to the end", levels=[Level(1.0, "kept")])
    return drawing


def _streams(measured: Measured) -> Figure:
    lines, streams = measured.lines, measured.mix.shape[-1]
    drawing, panels = style.figure(f"{measured.title}: streams over depth", 1, 4)
    _over_depth(panels[0], {"": lines["streams/cosine"]}, "mean cosine of two streams")
    used = {"read": lines["streams/effective"], "write": lines["streams/effective_write"]}
    _over_depth(panels[1], used, "streams in use", levels=[Level(float(streams), "all")])
    top = {"read": lines["read/dominant"], "write": lines["write/dominant"]}
    _over_depth(panels[2], top, "share of the largest weight", levels=[Level(1 / streams, "equal")])
    _over_depth(
        panels[3],
        {"": lines["streams/dominant_share"]},
        "share of the longest stream",
        levels=[Level(1 / streams, "equal")],
    )
    return drawing


def _learning(measured: Measured) -> Figure:
    streams = measured.mix.shape[-1]
    known = bool(measured.gradients)  # a published model is only run forward
    drawing, panels = style.figure(f"{measured.title}: what is learned and what could be", 1, 3 if known else 1)
    at_start = measured.initial_scale
    start = [Level(at_start, "start")] if measured.scales and at_start is not None else []
    _over_depth(panels[0], measured.scales, "alpha, scale of the dynamic part", levels=start)
    if not known:
        return drawing
    _over_depth(panels[1], measured.gradients, "norm of the gradient", log=True)
    share = {} if measured.tangent_share is None else {"": measured.tangent_share}
    indifferent = [Level((streams - 1) / streams, "chance")] if share else []
    _over_depth(panels[2], share, "share of |dL/dH| with zero sums", levels=indifferent)
    return drawing


def _over_depth(
    axes: Axes, lines: Lines, ylabel: str, *, levels: list[Level] | None = None, log: bool | None = None
) -> None:
    curves = []
    looks = [*LOOKS, *((SKY, dash, marker) for _, dash, marker in LOOKS)]
    for (name, values), (color, dash, marker) in zip(lines.items(), looks, strict=False):
        finite = np.flatnonzero(np.isfinite(values))
        curves.append(Curve(name, finite.tolist(), values[finite].tolist(), color, dash, marker))
    style.draw(axes, curves, ylabel, xlabel="connection", levels=levels or (), log=log)


PICTURES: dict[str, Callable[[Measured], Figure]] = {
    "mixing": lambda measured: _matrices(measured, shades_of_mixing(measured.mix)),
    "mixing_over_depth": _mixing,
    "streams": _cosines,
    "streams_over_depth": _streams,
    "learning": _learning,
}
"""File -> what draws it."""


def draw(measured: Measured, directory: Path, only: Sequence[str] | None = None) -> list[Path]:
    """Write the pictures, or these of them, into `directory`; the files written."""
    return [style.save(PICTURES[name](measured), directory / f"{name}.png") for name in only or PICTURES]
