"""Matrices between streams as heat maps: their colours, and one connection's at several steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mhc_exp.analysis import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NEAR_IDENTITY = 0.1
"""If no entry of any H_res is farther from I than this, H_res - I is drawn."""


class Shades(NamedTuple):
    """Matrices [K, S, S] and how they are coloured."""

    matrices: np.ndarray
    title: str
    low: float
    high: float
    cmap: str = "cividis"


def shades_of_mixing(mix: np.ndarray) -> Shades:
    """H_res, or H_res - I where that is too small to be seen beside the ones."""
    from_identity = mix - np.eye(mix.shape[-1])
    largest = float(np.abs(from_identity).max())
    if not 0 < largest < NEAR_IDENTITY:
        title = "H_res, mean over tokens (row: to, column: from)"
        return Shades(mix, title, min(0.0, float(mix.min())), max(1.0, float(mix.max())))
    unit = 10.0 ** math.floor(math.log10(largest))
    title = f"(H_res - I) / {unit:g}, mean over tokens (row: to, column: from)"
    return Shades(from_identity / unit, title, -largest / unit, largest / unit, "PuOr_r")


def tiles(axes: Axes, steps: Sequence[float], shades: Shades, across: int = 3) -> None:
    """Matrices [steps, S, S] under one colour scale, `across` beside each other, the first row of each at the top and
    its step below.
    """
    streams = shades.matrices.shape[-1]
    gap = max(1, round(streams / 4))
    rows, size = -(-len(steps) // across), streams + gap
    sheet = np.full((rows * size, min(across, len(steps)) * size - gap), np.nan)
    style.dress(axes)
    axes.set_axis_off()
    for place, (step, matrix) in enumerate(zip(steps, shades.matrices, strict=True)):
        top, left = place // across * size, place % across * size
        sheet[top : top + streams, left : left + streams] = matrix
        axes.text(left + streams / 2, top + streams + gap / 2, f"{step:g}", ha="center", va="center", fontsize=8)
    mesh = axes.pcolormesh(np.ma.masked_invalid(sheet), cmap=shades.cmap, vmin=shades.low, vmax=shades.high)
    mesh.set_label("_matrices")
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.figure.colorbar(mesh, ax=axes).ax.tick_params(labelsize=8)
