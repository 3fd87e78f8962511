"""Measurements that need a process of their own: a start is the first one, and peak memory never falls again."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence


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
