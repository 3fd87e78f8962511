"""Measurements that need a process of their own: a start is the first one, and peak memory never falls again."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path


class ChildFailed(RuntimeError):
    """The process that was measured ended with an error."""


def measured(module: str, command: Sequence[str]) -> dict[str, float]:
    """What `python -m MODULE STARTED OVERRIDES...` prints as JSON; STARTED is this moment of the monotonic clock."""
    words = [sys.executable, "-m", module, repr(time.monotonic()), *command]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no message"]
        raise ChildFailed(f"{' '.join(words)} ended with exit code {done.returncode}: {said[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


NAME = "start"
POLL = 0.05
"""Seconds between two looks at the record of a run."""


def started(command: Sequence[str]) -> dict[str, list[float]]:
    """Seconds and processor seconds by phase of `python -m mhc_exp OVERRIDES...` (mhc_exp.startup.phases). The run is
    killed once it has recorded them, after its first update.
    """
    with tempfile.TemporaryDirectory(prefix="mhc-start-") as place, tempfile.TemporaryFile("w+") as said:
        words = [sys.executable, "-m", "mhc_exp", *command, f"name={NAME}", f"runs_root={place}"]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=said)
        try:
            while (found := _recorded(Path(place, "single", NAME, "run.json"))) is None:
                if process.poll() is not None:
                    said.seek(0)
                    last = (said.read().strip().splitlines() or ["no message"])[-1]
                    raise ChildFailed(f"{' '.join(words)} ended with exit code {process.returncode}: {last}")
                time.sleep(POLL)
        finally:
            process.kill()
            process.wait()
    return found


def _recorded(record: Path) -> dict[str, list[float]] | None:
    """The phases of a start, once they are in run.json."""
    return json.loads(record.read_bytes()).get("startup") if record.exists() else None
