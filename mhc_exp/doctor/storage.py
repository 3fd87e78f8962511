"""The disk below the runs root: can it be written, how full is it, how long does fsync take."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from mhc_exp.doctor.findings import Finding, note, ok, problem, size
from mhc_exp.runs.disk import Disk

LITTLE = 2e9
"""Free bytes below which a study of some runs will not fit (a 48-block demo run keeps 0.1 GB)."""
SLOW = 0.1
"""Seconds: a checkpoint waits for four fsyncs."""
ROUNDS = 5


def examine(root: Path) -> Iterator[Finding]:
    """The file system that holds, or will hold, `root`."""
    place = root.expanduser().absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        yield problem("runs root", f"{place} is not a directory; type runs_root=DIRECTORY (or set MHC_RUNS)")
        return
    try:
        seconds = fsync_seconds(place)
    except OSError as error:
        yield problem(
            "runs root", f"{place} cannot be written ({error.strerror}); type runs_root=DIRECTORY (or set MHC_RUNS)"
        )
        return
    yield ok("runs root", f"{root.expanduser().absolute()}{'' if root.expanduser().exists() else ' (not made yet)'}")
    free = shutil.disk_usage(place).free
    yield (ok if free >= LITTLE else problem)(
        "disk", f"{size(free)} free" + ("" if free >= LITTLE else "; free some space, or type runs_root=DIRECTORY")
    )
    yield (ok if seconds < SLOW else note)(
        "fsync", f"{seconds * 1000:.1f} ms for 1 MB; normal is 0.1 to 30 ms, and a checkpoint waits for four"
    )


def fsync_seconds(place: Path) -> float:
    """Median time to write 1 MB durably in `place`. Raises OSError; leaves nothing."""
    disk, data, rounds = Disk(), bytes(1_000_000), []
    with tempfile.TemporaryDirectory(prefix=".doctor-", dir=place) as own:
        for number in range(ROUNDS):
            begun = time.perf_counter()
            disk.write_durably(Path(own) / str(number), data)
            rounds.append(time.perf_counter() - begun)
    return statistics.median(rounds)
