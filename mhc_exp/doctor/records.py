"""metrics.jsonl and layers.jsonl: torn ends, lines that are no row, and steps that should have a row and have none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mhc_exp.analysis.rows import is_row, read_records
from mhc_exp.config.schema import Config
from mhc_exp.doctor.findings import Finding, note, ok, problem, repaired
from mhc_exp.runs.directory import RunDirectory
from mhc_exp.runs.disk import Disk

FILES = ("metrics.jsonl", "layers.jsonl")
SHOWN = 8
"""Missing steps that are named."""


def examine(path: Path, run: RunDirectory | None, reached: int, *, repair: bool, busy: bool) -> Iterator[Finding]:
    """The records in `path`; `reached` is the last step that a checkpoint or status.json speaks of."""
    for name in FILES:
        yield from _tail(path / name, repair=repair, busy=busy)
    if not (path / FILES[0]).is_file():
        yield problem(FILES[0], "is missing: the rows are lost") if reached else note(FILES[0], "is not there yet")
        return
    records = read_records(path)
    if records.broken:
        yield note(FILES[0], f"{records.broken} lines are no rows; every reader skips them, nothing repairs them")
    steps = [row["step"] for row in records.rows]
    gaps = missing(run.config, run.identity.get("total_steps"), steps, reached) if run else []
    if gaps:
        shown = ", ".join(map(str, gaps[:SHOWN])) + (", ..." if len(gaps) > SHOWN else "")
        yield problem(FILES[0], f"{len(gaps)} steps should have a row and have none: {shown}")
    elif steps:
        yield ok(FILES[0], f"{len(steps)} rows, steps {steps[0]} to {steps[-1]} without a gap")


def missing(config: Config, total: object, steps: list[int], reached: int) -> list[int]:
    """Steps up to the last one known that the intervals of `config` ask a row for, and that are not among `steps`."""
    training, last = config.training, max([reached, *steps])
    due = {0} | {
        step
        for every in (training.log_every, training.eval_every, training.metrics_every)
        for step in range(every, last + 1, every)
    }
    due |= {total} if isinstance(total, int) and last >= total else set()
    return sorted(due - set(steps)) if last or steps else []


def _tail(file: Path, *, repair: bool, busy: bool) -> Iterator[Finding]:
    """A last line without its end."""
    if not file.is_file() or file.is_symlink() or not (tail := _torn(file)) or busy:
        return
    whole = is_row(tail)
    if not repair:
        left = "a whole row, only its line break is missing" if whole else f"{len(tail)} bytes of a row"
        yield note(file.name, f"ends with {left}; readers know, a resumed run goes on behind it, --repair mends it")
        return
    try:
        _mend(file, len(tail), whole)
    except OSError as error:
        yield problem(file.name, f"its torn end cannot be mended: {error}")
        return
    cut = f"cut {len(tail)} bytes of an unfinished row: {tail[:60].decode(errors='replace')}"
    yield repaired(file.name, "added the line break that its last row lacked" if whole else cut)


def _torn(file: Path) -> bytes:
    """What stands behind the last line break."""
    with open(file, "rb") as content:
        return content.read().rpartition(b"\n")[2]


def _mend(file: Path, length: int, whole: bool) -> None:
    """Give the last line its end, or cut it off. Raises OSError."""
    disk = Disk()
    fd = disk.open(file, os.O_RDWR | os.O_NOFOLLOW)
    try:
        end = os.fstat(fd).st_size
        if whole:
            os.pwrite(fd, b"\n", end)
        else:
            os.ftruncate(fd, end - length)
        disk.fsync(fd)
    finally:
        os.close(fd)
