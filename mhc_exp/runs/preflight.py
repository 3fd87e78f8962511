"""Can this run be written? Asked before anything is made."""

from __future__ import annotations

import math
import shutil
import tempfile
from pathlib import Path

from mhc_exp.config.schema import Config
from mhc_exp.runs.directory import RunRefused

_BYTES = 3 * 4
"""Weight and both Adam moments, float32."""


def preflight(config: Config, path: Path) -> None:
    """Raise RunRefused if the file system of the run directory `path` is read-only or too full. Leaves nothing."""
    place = path
    while not place.is_dir():
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place) as probe:
            probe.write(b"mhc_exp")
    except OSError as error:
        raise RunRefused(
            f"{place} cannot be written ({error.strerror}); choose another place: runs_root=DIRECTORY (or MHC_RUNS)"
        ) from error
    needed = needed_bytes(config)
    free = shutil.disk_usage(place).free
    if free < needed:
        raise RunRefused(
            f"{place} has {_megabytes(free)} free, but checkpoints of this run need about {_megabytes(needed)}; "
            "free some space or choose another place: runs_root=DIRECTORY (or MHC_RUNS)"
        )


def needed_bytes(config: Config) -> int:
    """Rough disk use: the checkpoints kept plus the one being written (vocabulary 256 where the data decides)."""
    from mhc_exp.body.parameters import body_table

    body = body_table(config, getattr(config.dataset, "vocab_size", 256))
    parameters = 1.3 * sum(math.prod(entry.shape) for entry in body.values())  # connections add up to a third
    return int(parameters * _BYTES * (config.training.keep_checkpoints + 1))


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB"
