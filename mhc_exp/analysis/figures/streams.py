"""Inside the connections, from layers.jsonl: the residual mixing over depth and training, at the largest depth."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from mhc_exp.analysis import style
from mhc_exp.analysis.figures.curves import COSINE, DOMINANT, EFFECTIVE, over_training
from mhc_exp.analysis.figures.figure import Figure, Panel, Picture, Tables
from mhc_exp.analysis.figures.inside import CONNECTION, Inside, caption_without_band, grid, heat_map, inside, span
from mhc_exp.analysis.figures.lines import caption, seed_mean
from mhc_exp.analysis.palette import DASHDOT, DASHED, DOTTED, SOLID
from mhc_exp.analysis.style import Curve
from mhc_exp.topology.diagnosis import QUANTILES

HEAT_MAPS = ("mix/diagonal", "mix/sigma_1", "mix/entry_max")
ENTRIES = tuple(f"mix/entry_{name}" for name in QUANTILES)
MAPPED = {"mix/diagonal": "mean diagonal", "_smallest": "smallest σ", "mix/entry_max": "largest entry"}
MEASURED = ("mix/diagonal", *HEAT_MAPS, *ENTRIES)
LAYERS_MISSING = "no (whole) layers.jsonl among the runs: only run directories of wirings with streams have it, not W&B"
Table = Any


# --- heat maps: connections x steps ----------------------------------------------------------------------------------


def _heat_maps(tables: Tables) -> Picture | str:
    measured = inside(tables, MEASURED, LAYERS_MISSING)
    if isinstance(measured, str):
        return measured
    arms, runs, found, more = measured
    panels = []
    layers = [one.layers.assign(_smallest=one.layers[_singular(one.layers)].min(axis=1)) for one in found]
    for column, title in MAPPED.items():
        grids = [grid(one, column) for one in layers]
        draws = [partial(heat_map, one.name, title, g, span(grids)) for one, g in zip(found, grids, strict=True)]
        panels.append([Panel(f"{one.name}: {title}", draw) for one, draw in zip(found, draws, strict=True)])
    shown = (
        f"Residual mixing matrices of every connection over training, depth {runs['depth'].max():g}: mean diagonal "
        f"entry, smallest singular value, largest entry. One colour scale per column.{more}"
    )
    said = caption_without_band(arms, shown, runs)
    in_rows = tuple(panel for row in zip(*panels, strict=True) for panel in row)
    return Picture("mixing_heatmap", HEAT_TITLE, said, in_rows, 3)


# --- over depth, at the end of training ------------------------------------------------------------------------------


def _singular_values(tables: Tables) -> Picture | str:
    shown = (
        "Singular values of each residual mixing matrix when training ended, σ1 the largest, mean over tokens; "
        "all 1 is an identity or a permutation, one 1 and the rest 0 makes all streams equal."
    )
    return _over_depth(tables, "singular_values", SINGULAR_TITLE, shown, "singular value of H_res", _sigmas)


def _entries(tables: Tables) -> Picture | str:
    shown = (
        "Entries of each residual mixing matrix when training ended, over the S × S entries and the tokens: median, "
        "quartiles (dark area) and smallest and largest entry (light area), each averaged over the seeds."
    )
    return _over_depth(tables, "entries", ENTRIES_TITLE, shown, "entry of H_res", _quantiles)


def _over_depth(tables: Tables, name: str, title: str, shown: str, ylabel: str, curves: Any) -> Picture | str:
    measured = inside(tables, MEASURED, LAYERS_MISSING)
    if isinstance(measured, str):
        return measured
    arms, runs, found, more = measured
    panels = []
    for one in found:
        last = one.layers["step"] == one.layers.groupby("run")["step"].transform("max")
        drawn = list(curves(one._replace(layers=one.layers[last])))
        draw = partial(style.draw, curves=drawn, ylabel=ylabel, xlabel=CONNECTION, log=False)
        panels.append(Panel(one.name, draw))
    describe = caption_without_band if name == "entries" else caption
    said = describe(arms, f"{shown} Depth {runs['depth'].max():g}.{more}", runs)
    return Picture(name, title, said, tuple(panels))


def _sigmas(one: Inside) -> Iterator[Curve]:
    dashes = (SOLID, DASHED, DASHDOT, DOTTED)
    for index, column in enumerate(_singular(one.layers)):
        look = one.look._replace(dash=dashes[index % len(dashes)])
        curve = seed_mean(
            f"{one.name} σ{index + 1}", look, one.layers[one.layers[column].notna()], column, "connection"
        )
        if curve:
            yield curve


def _quantiles(one: Inside) -> Iterator[Curve]:
    means = one.layers.groupby("connection")[[*ENTRIES]]
    low, q25, median, q75, high = means.mean().to_numpy().T.tolist()
    steps = sorted(one.layers["connection"].unique().tolist())
    look = one.look
    for label, values, dash, band in (
        ("median", median, SOLID, (q25, q75)),
        ("largest", high, DOTTED, (low, high)),
        ("smallest", low, DOTTED, None),
    ):
        yield Curve(f"{one.name} {label}", steps, values, look.color, dash, look.marker, band=band)


def _singular(layers: Table) -> list[str]:
    """Columns of singular values that are measured, the largest first."""
    named = [column for column in layers if column.startswith("mix/sigma_") and layers[column].notna().any()]
    return sorted(named, key=lambda column: int(column.rsplit("_", 1)[1]))


HEAT_TITLE = "Residual mixing over depth and training"
SINGULAR_TITLE = "Singular values of the residual mixing, connection by connection"
ENTRIES_TITLE = "Entries of the residual mixing, connection by connection"
FIGURES = (
    over_training(
        "stream_collapse",
        "Do the streams stay different?",
        "Mean cosine between the residual streams after the connections (1: all streams point the same way), how "
        "many streams a sublayer reads from (1: one stream, S: all alike), and the share of the longest stream in the "
        "sum of all norms (1/S: all as long). Segments of the width have no cosine.",
        *(COSINE, EFFECTIVE, DOMINANT),
    ),
    Figure("mixing_heatmap", HEAT_TITLE, "step", HEAT_MAPS, _heat_maps),
    Figure("singular_values", SINGULAR_TITLE, "connection", ("mix/sigma_1",), _singular_values),
    Figure("entries", ENTRIES_TITLE, "connection", ENTRIES, _entries),
)
