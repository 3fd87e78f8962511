"""`mhc-exp report DIRECTORY` of watched connections: report.html, one file that fetches nothing, and the pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from mhc_exp.analysis import figures
from mhc_exp.analysis.report import draw_panels, html, ours, remove, room
from mhc_exp.analysis.report.html import Section
from mhc_exp.analysis.report.table import Cell, Table, numeric, without_empty
from mhc_exp.analysis.sources import Source
from mhc_exp.analysis.watched.history import HISTORY
from mhc_exp.analysis.watched.recorded import Stack, Watched, read
from mhc_exp.analysis.watched.shared import made
from mhc_exp.analysis.watched.streams import STREAMS
from mhc_exp.runs.disk import Disk

DRAWN = {"streams": STREAMS, "history": HISTORY}
COLUMNS = {
    "mix/diagonal": "diagonal",
    "mix/identity_distance": "|H-I|",
    "gain/composite_forward": "to end fwd",
    "gain/composite_backward": "to end bwd",
    "streams/effective": "streams read",
    "streams/effective_write": "written",
    "streams/cosine": "cosine",
    "alpha/read": "alpha read",
    "alpha/write": "alpha write",
    "alpha/mix": "alpha mix",
    "history/largest": "largest weight",
    "history/mean_distance": "steps back",
    "history/contribution": "history",
    "grad/flow": "|dL/dx|",
}
"""Column of layers.jsonl -> its name in the table."""


def write_page(source: Source, out: Source | None = None) -> list[Path]:
    """Write report.html and report_files/*.png about the watch `source` into `out`, by default into itself; the files.

    An earlier report is replaced. Raises NothingThere, and NotOurs where another file is in the way.
    """
    watched = read(Path(source).expanduser())
    directory = watched.directory if out is None else Path(out).expanduser()
    page, files = directory / "report.html", directory / "report_files"
    room(files)
    ours({page: html.MARK})
    sections, images, missing = [], [], []
    for stack in watched.stacks:
        found = dict(made(stack, DRAWN[stack.kind]))
        reasons = {name: reason for name, reason in found.items() if isinstance(reason, str)}
        pictures, panels = draw_panels([one for one in found.values() if not isinstance(one, str)], reasons)
        images += [figures.save(picture, files) for picture in pictures]
        missing += reasons
        drawn = [html.figure(*one) for one in zip(pictures, panels, strict=True)]
        key = f"stack-{stack.index or 0}"
        sections.append(Section(key, stack.name, [html.table(_table(stack)), *drawn, *html.missing(reasons)]))
    title = f"{watched.directory.resolve().name}: connections of {watched.facts.get('model', 'a model')}"
    written = datetime.now(UTC).replace(microsecond=0)
    directory.mkdir(parents=True, exist_ok=True)
    Disk().replace_durably(page, html.document(title, list(_facts(watched)), sections, written).encode())
    remove(files / f"{name}.png" for name in missing)
    return [page, *images]


def _facts(watched: Watched) -> Iterator[tuple[str, str]]:
    facts = watched.facts
    yield "source", os.fspath(watched.directory)
    yield "model", str(facts.get("model", ""))
    steps = [line["step"] for stack in watched.stacks for line in stack.lines]
    yield "watched", f"{len({*steps})} steps from {min(steps)} to {max(steps)}, every {facts.get('every', '?')}"
    for stack in watched.stacks:
        size = (
            f"{stack.facts['streams']} streams" if stack.kind == "streams" else f"{stack.facts['max_history']} states"
        )
        yield stack.name, f"{len(stack.labels)} connections, {stack.facts['variant']}, {size}"
    damage = [
        f"{stack.records.broken} broken lines in {stack.name}" for stack in watched.stacks if stack.records.broken
    ]
    yield "damage", "; ".join(damage)


def _table(stack: Stack) -> Table:
    """Every connection at the last watched step."""
    last = stack.lines[-1] if stack.lines else {"step": 0}
    grids = {column: stack.grid(column) for column in COLUMNS}
    values = {
        column: grid[2][:, -1] for column, grid in grids.items() if grid is not None and grid[0][-1] == last["step"]
    }
    lines = [
        (Cell(label, float(index)), *(numeric(float(column[index]), ".4g") for column in values.values()))
        for index, label in enumerate(stack.labels)
    ]
    columns = ("connection", *(COLUMNS[name] for name in values))
    return without_empty(Table(f"Step {last['step']}", columns, tuple(lines), frozenset(columns[1:])))
