"""One process per run: an flock that names its owner and that the system releases when the owner dies, however."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

PATIENCE = 0.5
"""Seconds to wait for a lock: longer than somebody else's glance at it, shorter than a person notices."""


class Locked(Exception):
    """Another process works on this run; the text names it."""


@contextlib.contextmanager
def hold(path: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Own the lock file `path` for the block. Raises Locked if another process does, OSError if it cannot be made.

    The file is never deleted: the lock lies on the open file, and a deleted one could be locked twice.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        deadline = time.monotonic() + patience
        while not _take(fd):
            if time.monotonic() > deadline:
                raise Locked(f"{path.parent} is in use by {_owner(fd)}")
            time.sleep(0.02)
        _sign(fd, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        yield
        _sign(fd, "")
    finally:
        os.close(fd)


def holder(path: Path) -> str | None:
    """Who holds the lock right now (`process 123 on host`), or None."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return None if _take(fd) else _owner(fd)
    finally:
        os.close(fd)


def _take(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sign(fd: int, text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk takes the name away, not the lock
        os.ftruncate(fd, 0)
        os.pwrite(fd, text.encode(), 0)


def _owner(fd: int) -> str:
    try:
        owner = json.loads(os.pread(fd, 1000, 0))
        return f"process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError, RecursionError):  # taken this very moment: the name is not written yet
        return "another process"
