"""`mhc-exp inspect` of a wiring that reads earlier outputs: one table, a heat map of sources, and lines over depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mhc_exp.analysis import style
from mhc_exp.analysis.figures.history import draw_weights
from mhc_exp.analysis.palette import BLUE, ORANGE, Dash
from mhc_exp.analysis.sources import NothingThere
from mhc_exp.analysis.style import Curve, Level
from mhc_exp.inspection.measured import not_finite
from mhc_exp.inspection.opened import Opened
from mhc_exp.inspection.table import Lines, table
from mhc_exp.topology.diagnosis import HistoryDiagnosis, per_connection
from mhc_exp.topology.history import reads
from mhc_exp.topology.history.reads import Read
from mhc_exp.training.evaluation import diagnosis_batch

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Measured:
    """K reads in order of depth."""

    title: str
    device: str
    tokens: int
    """Tokens of the batch."""
    reads: Sequence[Read]
    labels: list[str]
    """What runs on from each read: `attention 0`, `mlp 0`, ..., `head`."""
    weights: np.ndarray
    """[K, places] weight of the source made at each place; nan where there is none."""
    lines: Lines
    """Columns of `topology.diagnosis.per_connection`, and `history/moved`."""


def measure(opened: Opened) -> Measured:
    """Diagnose the checkpoint, and the untrained model for comparison. Raises NothingThere."""
    batch = diagnosis_batch(opened.batches)
    initial = opened.trainer.diagnose(batch)  # the trainer still holds the initial weights
    opened.load()
    found = opened.trainer.diagnose(batch)
    assert isinstance(initial, HistoryDiagnosis)  # who calls has asked for the family
    assert isinstance(found, HistoryDiagnosis)
    if not all(np.isfinite(weights).all() for weights in found.weights):
        raise NothingThere(not_finite(opened, "weights of the reads"))
    lines = {name: np.array(values, float) for name, values in per_connection(found).items()}
    lines["history/moved"] = reads.moved(found.weights, initial.weights)
    return Measured(
        title=opened.title(),
        device=opened.trainer.device,
        tokens=batch.inputs.size,
        reads=found.reads,
        labels=[label(read.reader, 2 * opened.config.depth) for read in found.reads],
        weights=reads.table(found.reads, found.weights),
        lines=lines,
    )


def label(reader: int, end: int) -> str:
    """What sublayer number `reader` is; `end` is the head."""
    return "head" if reader == end else f"{('attention', 'mlp')[reader % 2]} {reader // 2}"


def text(measured: Measured) -> str:
    """The table under its title."""
    lines = measured.lines
    columns = {
        "sources": np.array([len(read.sources) for read in measured.reads]),
        "entropy": lines["history/entropy"],
        "distance": lines["history/mean_distance"],
        "top": lines["history/largest"],
        "moved": lines["history/moved"],
    }
    columns |= {"|g|": lines["grad/read"]} if "grad/read" in lines else {}
    size = f"{len(measured.reads)} reads of earlier outputs"
    head = f"{measured.title}, on {measured.device}; {measured.tokens} held-out tokens, {size}"
    return f"{head}\n\n{table('read', measured.labels, columns)}"


def draw(measured: Measured, directory: Path) -> list[Path]:
    """Write both pictures into `directory`; the files written."""
    heat, (axes,) = style.figure(f"{measured.title}: what is read")
    draw_weights(axes, "weight", [read.place for read in measured.reads], measured.weights)
    over_depth, panels = style.figure(f"{measured.title}: reads over depth", 1, 3)
    lines = measured.lines
    _over_reads(panels[0], {"": lines["history/entropy"]}, "entropy / log(sources)", [Level(1.0, "equal")])
    _over_reads(panels[1], {"": lines["history/mean_distance"]}, "mean distance (sublayers back)")
    top = {"largest": lines["history/largest"], "moved": lines["history/moved"]}
    _over_reads(panels[2], top, "share of the weight")
    pictures = {"sources": heat, "reads_over_depth": over_depth}
    return [style.save(drawing, directory / f"{name}.png") for name, drawing in pictures.items()]


def _over_reads(axes: Axes, lines: Lines, ylabel: str, levels: Sequence[Level] = ()) -> None:
    looks: tuple[tuple[str, Dash, str], ...] = ((BLUE, "-", "o"), (ORANGE, "--", "s"))
    curves = []
    for (name, values), (color, dash, marker) in zip(lines.items(), looks, strict=False):
        kept = np.flatnonzero(np.isfinite(values))
        curves.append(Curve(name, kept.tolist(), values[kept].tolist(), color, dash, marker))
    style.draw(axes, curves, ylabel, xlabel="read (0 is the first)", levels=levels, log=False)
