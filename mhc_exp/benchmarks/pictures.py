"""One picture per suite, from the rows of its table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mhc_exp.analysis import style
from mhc_exp.analysis.palette import BLACK, BLUE, GRAY, GREEN, ORANGE, PURPLE, SKY, VERMILLION
from mhc_exp.analysis.style import Curve
from mhc_exp.benchmarks.result import Bars, Cell, Lines, Result, Row
from mhc_exp.benchmarks.table import HEADINGS, cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TIERS = {"eager": ORANGE, "native": BLUE, "compiled": GREEN, "theirs": GRAY}
STACK = (GRAY, SKY, "#C8C8C8", "#F0E442", VERMILLION, GREEN, BLACK, ORANGE, PURPLE, BLUE)
LOOKS = ((BLACK, "-", "o"), (ORANGE, "--", "s"), (BLUE, "-", "^"), (VERMILLION, "-.", "D"), (GREEN, ":", "v"))
UNITS = {"ms": "milliseconds", "mb": "megabytes", "ratio": "times the baseline", "total": "seconds"}


def draw(result: Result, directory: Path) -> Path:
    """Write SUITE.png; the file."""
    panels = _panels(result)
    drawing, axes = style.figure(f"mhc-exp bench {result.suite}", 1, len(panels))
    for panel, (title, rows) in zip(axes, panels.items(), strict=True):
        panel.set_title(title, fontsize=10)
        if isinstance(result.picture, Lines):
            _lines(panel, result.picture, rows)
        else:
            _bars(panel, result.picture, rows)
    _size(drawing, result.picture, panels)
    return style.save(drawing, directory / f"{result.suite}.png")


def _size(drawing: Figure, picture: Lines | Bars, panels: dict[str, list[Row]]) -> None:
    most = max(map(len, panels.values()))
    height = 3.6 if isinstance(picture, Lines) else 1.6 + 0.28 * most
    drawing.set_size_inches(max(7.2, 4.8 * len(panels)), height)


def _panels(result: Result) -> dict[str, list[Row]]:
    """Title -> rows of one panel."""
    found: dict[str, list[Row]] = {}
    for row in result.rows:
        title = ", ".join(f"{HEADINGS[name]} {cell(name, row[name])}" for name in result.picture.panels)
        found.setdefault(title, []).append(row)
    return found


def _name(row: Row, by: tuple[str, ...]) -> str:
    return " ".join(str(row[name]) for name in by)


def _lines(axes: Axes, picture: Lines, rows: list[Row]) -> None:
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(_name(row, picture.by), []).append(row)
    curves = []
    for index, (name, own) in enumerate(by_name.items()):
        color, dash, marker = LOOKS[index % len(LOOKS)]
        over, values = ([_number(row[key]) for row in own] for key in (picture.over, picture.value))
        curves.append(Curve(name, over, values, color, dash, marker))
    ticks = sorted({_number(row[picture.over]) for row in rows})
    style.draw(axes, curves, UNITS[picture.value], xlabel=HEADINGS[picture.over], ticks=ticks)


def _bars(axes: Axes, picture: Bars, rows: list[Row]) -> None:
    """Horizontal bars in the order of the table, with the range over the rounds where it is of the same value."""
    names = [_name(row, picture.by) for row in rows]
    left = [0.0] * len(rows)
    for index, value in enumerate(picture.values):
        lengths = [_number(row[value]) for row in rows]
        stacked = len(picture.values) > 1
        colors = [STACK[index % len(STACK)]] * len(rows) if stacked else [_color(row) for row in rows]
        axes.barh(names, lengths, left=left, color=colors, label=HEADINGS[value])
        left = [start + length for start, length in zip(left, lengths, strict=True)]
    if picture.values == ("ratio",):
        axes.hlines(names, [_number(row["low"]) for row in rows], [_number(row["high"]) for row in rows], color=BLACK)
    reach = [_number(row["high"]) if picture.values == ("ratio",) else end for row, end in zip(rows, left, strict=True)]
    for name, value, end in zip(names, left, reach, strict=True):
        axes.annotate(f"{value:.3g}", (end, name), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel(UNITS.get(picture.values[0], "seconds"), fontsize=9.5)
    axes.grid(visible=False)
    if len(picture.values) > 1:
        axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=3)


def _color(row: Row) -> str:
    return BLACK if row["wiring"] == "baseline" else TIERS.get(str(row["tier"]), PURPLE)


def _number(value: Cell) -> float:
    assert isinstance(value, int | float)
    return float(value)
