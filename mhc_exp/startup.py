"""When this process got where, from its start to its first training step. Standard library only.

A process starts once: of several jobs in one process, only the first is followed.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

PHASES = (
    "python",
    "hydra",
    "configuration",
    "run directory",
    "data",
    "framework",
    "model",
    "evaluation",
    "diagnosis",
    "first step",
)
"""In order: the interpreter until `import mhc_exp`; imports up to the door's own first line; composition and checks;
the run directory; the data; `import torch` (or MLX); the trainer with its weights; the row of step 0; the first update.
"""

_reached: dict[str, tuple[float, float]] = {}


def reached(phase: str) -> bool:
    """The end of `phase` is now; False for what is said again, or after the first step, and does not count."""
    counts = phase not in _reached and PHASES[-1] not in _reached
    if counts:
        _reached[phase] = time.monotonic(), time.process_time()
    return counts


def phases() -> dict[str, list[float]]:
    """Seconds and processor seconds of every phase that was reached, in order of PHASES."""
    found: dict[str, list[float]] = {}
    before = _began(), 0.0
    for phase in PHASES:
        if phase in _reached:
            moment = _reached[phase]
            found[phase] = [round(now - then, 4) for now, then in zip(moment, before, strict=True)]
            before = moment
    return found


def _began() -> float:
    """Start of this process on the monotonic clock; where the system does not tell, when the package was imported."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return _reached["python"][0]
    return time.monotonic() - age


reached("python")
