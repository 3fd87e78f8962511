"""Weights & Biases: is a key known (it is never shown), does the server answer, which runs wait to be sent."""

from __future__ import annotations

import os
import shlex
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from mhc_exp.config import machine
from mhc_exp.doctor.findings import Finding, note, ok

SECONDS = 3.0
"""To wait for the server in all, name resolution included."""
SERVER = "https://api.wandb.ai"


def examine(root: Path) -> Iterator[Finding]:
    """Nothing here is a problem: without W&B every row is in metrics.jsonl."""
    if not machine.installed("wandb"):
        yield note("wandb", "not installed; runs are recorded without it: pip install 'mhc-exp[wandb]'")
        return
    yield key()
    yield reachable(os.environ.get("WANDB_BASE_URL") or SERVER)
    yield from waiting(root)


def key() -> Finding:
    """Whether wandb knows an API key; asked in a directory of its own and offline."""
    from mhc_exp.sinks import wandb_run

    with tempfile.TemporaryDirectory() as own, wandb_run.private(Path(own)):
        present = wandb_run.has_key()
    if present:
        return ok("wandb key", "present (not shown)")
    return note("wandb key", "none, so runs are recorded offline; type: wandb login, or set WANDB_API_KEY")


def reachable(server: str, seconds: float = SECONDS) -> Finding:
    """Whether `server` answers at all; asked without any key, and not where WANDB_MODE forbids to."""
    if (mode := os.environ.get("WANDB_MODE", "online")) not in ("online", "run", "shared"):
        return ok("wandb server", f"not asked, WANDB_MODE={mode}")
    answer: list[tuple[bool, str]] = []

    def call() -> None:
        try:
            with urllib.request.urlopen(f"{server.rstrip('/')}/healthz", timeout=seconds) as response:
                answer.append((True, f"answers ({response.status})"))
        except urllib.error.HTTPError as error:
            answer.append((True, f"answers ({error.code})"))
        except (OSError, ValueError) as error:
            answer.append((False, str(getattr(error, "reason", error))))

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    answers, said = answer[0] if answer else (False, f"no answer within {seconds:g} s")
    if answers:
        return ok("wandb server", f"{server} {said}")
    return note("wandb server", f"{server} cannot be reached ({said}); runs are recorded offline and lose nothing")


def waiting(root: Path) -> Iterator[Finding]:
    """Offline recordings below the runs root that nobody has sent."""
    recordings = sorted(root.expanduser().glob("*/*/wandb/offline-run-*"))
    unsent = [place for place in recordings if not any(place.glob("*.wandb.synced"))]
    if unsent:
        words = shlex.quote(str(root))
        how = f"mhc-exp upload {words}, or wandb sync DIRECTORY"
        yield note("wandb offline", f"{len(unsent)} recordings wait; type: {how}")
    else:
        yield ok("wandb offline", "no recording waits to be sent")
