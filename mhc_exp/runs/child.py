"""The worker in a process of its own: a crash, an OOM kill or a segmentation fault ends one job and nothing else.

The child writes straight into train.log and this process shows what appears there. So the last words of a dying
interpreter are kept, and a child whose parent is killed neither blocks nor dies of a broken pipe.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from mhc_exp.runs.identity import now

if TYPE_CHECKING:
    from mhc_exp.runs.directory import RunDirectory

GRACE = 60.0
"""Seconds between SIGTERM and SIGKILL: a step and a checkpoint."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STOPPED = {128 + number for number in _SIGNALS}
_WORKER = [sys.executable, "-X", "faulthandler", "-m", "mhc_exp.runs.worker"]


def train_in_child(
    run: RunDirectory, *, timeout: float | None, grace: float = GRACE, heard: list[int] | None = None
) -> int:
    """Train `run` in a child process; returns the exit code of `mhc_exp.runs.worker.main`, 1 for any other end.

    SIGINT and SIGTERM are passed on, and added to `heard`. After `timeout` seconds the child is asked to save and stop,
    `grace` seconds later it is killed. How it died, if it did, is recorded in status.json.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    log = os.open(run.log_path, flags, 0o644)
    try:
        shown_from = os.fstat(log).st_size
        child = subprocess.Popen(
            [*_WORKER, str(run.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C reaches us alone, and exactly one signal is passed on
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    finally:
        os.close(log)
    with open(run.log_path, "rb") as output, _passed_on(child, [] if heard is None else heard):
        output.seek(shown_from)
        timed_out = _follow(child, output, timeout, grace)
    return _settle(run, child.returncode, timeout if timed_out else None)


def _follow(child: subprocess.Popen[bytes], output: BinaryIO, timeout: float | None, grace: float) -> bool:
    """Show what the child writes until it ends. True if it was stopped for taking too long."""
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    deadline = None if timeout is None else time.monotonic() + timeout
    stopping = [child.terminate, child.kill]
    limit_reached = False
    ended = False
    while not ended:
        try:
            child.wait(0.05)
            ended = True
        except subprocess.TimeoutExpired:
            if deadline is not None and stopping and time.monotonic() > deadline:
                stopping.pop(0)()
                limit_reached, deadline = True, time.monotonic() + grace
        with contextlib.suppress(OSError, ValueError):  # a closed terminal is no reason to abandon the child
            sys.stdout.write(decode(output.read()))
            sys.stdout.flush()
    return limit_reached


@contextlib.contextmanager
def _passed_on(child: subprocess.Popen[bytes], heard: list[int]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def pass_on(number: int, _: object) -> None:
        heard.append(number)
        child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _settle(run: RunDirectory, code: int, timeout: float | None) -> int:
    """The exit code to report; writes to status.json what a child that died could not."""
    state = run.status()["state"]
    late = f", after launch.timeout={timeout:g} s" if timeout is not None else ""
    if state in ("done", "diverged") and code != 2:  # the result stands, even if the process fell over on its way out
        return 3 if state == "diverged" else 0
    if code in _STOPPED or -code in _SIGNALS:
        code = 128 - code if code < 0 else code
        saved = "" if state == "interrupted" else " before it could save"
        if saved or late:
            run.update_status("interrupted", reason=f"stopped{saved}{late}", signal=code - 128, ended=now())
        return code
    if code < 0:
        name = signal.Signals(-code).name
        run.update_status("failed", reason=f"killed by signal {-code} ({name}){late}", ended=now())
        return 1
    if code == 2:
        return 2
    if code != 1 or state != "failed":
        run.update_status("failed", reason=f"the worker ended with exit code {code}{late}", ended=now())
    return 1
