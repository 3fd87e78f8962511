"""Weights & Biases, kept at arm's length: it may be slow, away, full, killed or not installed; training goes on.

The loop puts rows into a bounded queue and never waits. One daemon thread imports wandb, starts the run and sends the
rows. Measured on wandb 0.31: `init` blocks up to its timeout and raises, `log` blocks for ever behind a stopped service
and raises behind a killed one, a full disk is not reported. So W&B is a mirror of metrics.jsonl, never the record.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shlex
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mhc_exp.runs.disk import discard
from mhc_exp.sinks import wandb_run
from mhc_exp.sinks.wandb_run import say

if TYPE_CHECKING:
    from mhc_exp.runs.directory import RunDirectory
    from mhc_exp.sinks import Row

QUEUE = 20_000
"""Rows kept for a tracker that does not take them; more are dropped here (metrics.jsonl has them)."""
_PRIVACY = ("disabled", "offline", "online")
_GRACE = 3.0
"""Seconds beyond wandb's own timeouts before the thread is left behind."""


class WandbSink:
    """Mirrors rows to W&B from a thread of its own."""

    name = "wandb"
    essential = False

    def __init__(self) -> None:
        self._rows: queue.Queue[Row | None] = queue.Queue(QUEUE)
        self._thread: threading.Thread | None = None
        self._run: RunDirectory | None = None
        self._first_step: int | None = None
        self._state = "failed"
        self._asked = ""
        self._complete = True
        self._where: list[str] = []

    def open(self, run: RunDirectory, total_steps: int, resumed_at: int) -> None:
        self._run = run
        self._asked = os.environ.get("WANDB_MODE", "")
        self._thread = threading.Thread(target=self._work, name="wandb sink", daemon=True)

    def log(self, row: Row) -> None:
        """Never waits. The thread starts with the second step logged: importing wandb must not delay the first one."""
        try:
            self._rows.put_nowait(row)
        except queue.Full:
            self._complete = False
        if self._first_step is None:
            self._first_step = int(row["step"])
        elif row["step"] != self._first_step:
            self._start()

    def flush(self) -> None:
        pass

    def close(self, state: str) -> None:
        """Wait for the tracker at most its two timeouts, then leave it behind. Prints where the data is."""
        if self._run is None or self._thread is None:
            return
        self._state = state
        tracking = self._run.config.tracking
        deadline = time.monotonic() + tracking.init_timeout + tracking.finish_timeout + _GRACE
        self._start()
        while self._thread.is_alive() and time.monotonic() < deadline:
            with contextlib.suppress(queue.Full):
                self._rows.put(None, timeout=0.1)
                break
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            say("it does not answer and is left behind")
            self._complete = False
            if "wandb" in sys.modules:
                wandb_run.kill_service()
            self._thread.join(_GRACE)
        if not self._complete:
            again = f"mhc-exp upload {shlex.quote(str(self._run.path))}"
            say(f"not every row was sent; all are in {self._run.metrics_path}; to send them: {again}")
            return
        for line in self._where:
            say(line)

    def _start(self) -> None:
        if self._thread is not None and self._thread.ident is None:
            self._thread.start()

    # --- in the thread -------------------------------------------------------------------------------------------

    def _work(self) -> None:
        assert self._run is not None
        try:
            with wandb_run.private(self._run.path / "wandb"):
                self._mirror(self._run)
        except ModuleNotFoundError as error:
            say(f"{error.name} is not installed, so nothing is sent; type: pip install 'mhc-exp[wandb]'")
        except BaseException as error:
            self._complete = False
            say(f"{type(error).__name__}: {error}; nothing more is sent, training continues")

    def _mirror(self, run: RunDirectory) -> None:
        import wandb

        mode = self._mode(run)
        if mode == "disabled":
            return
        wandb_run.stop_usage_reports()
        try:
            tracked = self._begin(run, mode)
            self._where = _directions(tracked, run)
            while (row := self._rows.get()) is not None:
                tracked.log(row)  # never step=: after a resume wandb would drop every row up to the last step it saw
            wandb_run.end(tracked, self._state)
            wandb.teardown()  # here, under a deadline, and not in wandb's exit hook, which has none
        except BaseException:
            wandb_run.kill_service()
            raise

    def _mode(self, run: RunDirectory) -> str:
        """disabled, offline or online: the more private of the config's and WANDB_MODE's choice."""
        wanted = run.config.tracking.wandb
        asked = {"dryrun": "offline", "run": "online", "shared": "online"}.get(self._asked, self._asked)
        choices = [choice for choice in (wanted, asked) if choice in _PRIVACY]
        mode = min(choices, key=_PRIVACY.index) if choices else "online"
        if mode == "online" and not wandb_run.has_key():
            if "online" in choices:
                say("no API key is configured, so this run is recorded offline; type: wandb login")
            return "offline"
        return mode

    def _begin(self, run: RunDirectory, mode: str) -> Any:
        directory = run.path / "wandb"
        before = set(directory.glob("run-*"))
        try:
            return _begin(run, mode)
        except Exception as error:
            if mode != "online":
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            say(f"no connection ({reason}); this run is recorded offline")
        wandb_run.kill_service()  # it keeps the id of the failed attempt in use, and goes on calling the server
        for attempt in set(directory.glob("run-*")) - before:
            discard(attempt)
        return _begin(run, "offline")


def _begin(run: RunDirectory, mode: str) -> Any:
    tracking = run.config.tracking
    wandb_run.talk(mode)
    return wandb_run.begin(
        run.identity,
        directory=run.path,
        mode=mode,
        project=tracking.project,
        entity=tracking.entity,
        init_timeout=tracking.init_timeout,
        finish_timeout=tracking.finish_timeout,
    )


def _directions(tracked: Any, run: RunDirectory) -> list[str]:
    """Closing lines: where the data is and what to type."""
    files = Path(tracked.dir).parent
    if not files.is_relative_to(run.path):
        say(f"{run.path} is not writable for wandb, which writes to {files} instead")
    if tracked.offline:
        look = f"wandb leet {shlex.quote(str(files.parent))}"
        return [f"recorded offline; look: {look}; upload: wandb sync {shlex.quote(str(files))}"]
    return [f"{tracked.url}; local copy: wandb leet {shlex.quote(str(files.parent))}"]
