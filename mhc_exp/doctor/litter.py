"""What killed processes leave behind: half-written files and directories that nobody will ever read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from mhc_exp.doctor.findings import Finding, note, problem, repaired, size
from mhc_exp.runs.directory import process_lives
from mhc_exp.runs.disk import discard

IN_RUN = ".tmp-*"
IN_CHECKPOINTS = (".tmp-*", ".del-*")
UNBORN = ".new-*"
"""A run directory that was being made."""


def of_run(path: Path, *, repair: bool, busy: bool) -> Iterator[Finding]:
    """Leftovers inside a run. The caller holds its lock if `repair`; those of a run that trains are in use."""
    if busy:
        return
    places = [*path.glob(IN_RUN)]
    checkpoints = path / "checkpoints"
    if not checkpoints.is_symlink():
        places += [place for pattern in IN_CHECKPOINTS for place in checkpoints.glob(pattern)]
    yield from _found(places, repair=repair)


def examine(root: Path, *, repair: bool) -> Iterator[Finding]:
    """Directories below `root` that a process began to make a run in and did not live to name."""
    places = [place for pattern in (UNBORN, f"*/{UNBORN}") for place in root.glob(pattern)]
    yield from _found([p for p in places if not process_lives(p.name.rpartition("-")[2])], repair=repair)


def _found(places: Iterable[Path], *, repair: bool) -> Iterator[Finding]:
    for place in sorted(places):
        amount = size(bytes_below(place))
        if not repair:
            yield note("leftover", f"{place}, {amount} of a process that is gone; --repair deletes it")
            continue
        _delete(place)
        if place.exists():
            yield problem("leftover", f"{place} cannot be deleted")
        else:
            yield repaired("leftover", f"deleted {place}, {amount}")


def _delete(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        discard(place)
    else:
        with contextlib.suppress(OSError):
            place.unlink()


def bytes_below(place: Path) -> int:
    """Bytes of the files at or below `place`, no link followed."""
    files = place.rglob("*") if place.is_dir() and not place.is_symlink() else [place]
    total = 0
    for file in files:
        with contextlib.suppress(OSError):
            total += file.lstat().st_size if file.is_symlink() or file.is_file() else 0
    return total
