"""metrics.jsonl and layers.jsonl, the record of a run: a strict JSON object per line, appended with one write each."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mhc_exp.runs.disk import Disk

if TYPE_CHECKING:
    from mhc_exp.runs.directory import RunDirectory
    from mhc_exp.sinks import Layers, Row

RING = 100_000
"""Rows kept in memory while the disk does not take them."""
SYNC_SECONDS = 10.0
"""Longest time a row stays in the operating system's cache between checkpoints."""


class JsonlSink:
    """Appends rows; what the disk refuses waits in memory and is tried again with every row.

    After a resume the file may hold rows beyond the checkpoint; they stay, and a reader keeps the last row of a step.
    """

    essential = True

    def __init__(self, disk: Disk | None = None, ring: int = RING, file: str = "metrics.jsonl") -> None:
        self.name = file
        self._disk = disk or Disk()
        self._waiting: deque[bytes] = deque(maxlen=ring)
        self._lost = 0
        self._doubtful = True
        """Whether the last line of the file may be torn: by a crash before us, or by a write that failed."""
        self._path: Path | None = None
        self._fd: int | None = None
        self._named = False
        """Whether the file's name survives a power cut, too."""
        self._trouble = False
        self._synced = 0.0

    @property
    def unwritten(self) -> int:
        """Rows that are not in the file."""
        return len(self._waiting) + self._lost

    def open(self, run: RunDirectory, total_steps: int, resumed_at: int) -> None:
        self.open_in(run.path)

    def open_in(self, directory: Path) -> None:
        """Append to the file of this name in `directory`."""
        self._path = directory / self.name
        self._drain()

    def log(self, row: Row | Layers) -> None:
        """Raises TypeError for a value that is neither number, text, None nor a list of them; never OSError."""
        if len(self._waiting) == self._waiting.maxlen:
            self._lost += 1
        self._waiting.append(encode(row))
        self._drain()
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self.flush()

    def flush(self) -> None:
        self._drain()
        if self._fd is not None:
            try:
                self._disk.fsync(self._fd)
                if not self._named and self._path is not None:
                    self._disk.sync_directory(self._path.parent)
                    self._named = True
            except OSError as error:
                self._report(error)
        self._synced = time.monotonic()

    def close(self, state: str) -> None:
        self.flush()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _drain(self) -> None:
        """Write what waits, oldest first, until the disk refuses. Nothing to do before `open`."""
        if self._path is None:
            return
        try:
            if self._fd is None:
                self._fd = self._open()
            if self._waiting:
                self._append(self._fd)
        except OSError as error:
            self._report(error)
            return
        if self._trouble:
            self._trouble = False
            missing = f"{self._lost} rows are missing" if self._lost else "no row is missing"
            print(f"{self._path} is written again, {missing}", file=sys.stderr, flush=True)

    def _append(self, fd: int) -> None:
        end_line = b"\n" if self._doubtful and _torn(fd) else b""
        self._doubtful = True
        while self._waiting:
            line = end_line + self._waiting[0]
            written = self._disk.write(fd, memoryview(line))
            if written < len(line):  # the rest alone would be no row: the whole row comes again
                raise OSError(errno.ENOSPC, f"only {written} of {len(line)} bytes were taken")
            end_line = b""
            self._waiting.popleft()
        self._doubtful = False

    def _open(self) -> int:
        assert self._path is not None, "open() comes first"
        return self._disk.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW)

    def _report(self, error: OSError) -> None:
        if not self._trouble:
            print(f"{self._path}: {error}; rows wait in memory, training continues", file=sys.stderr, flush=True)
        self._trouble = True


def _torn(fd: int) -> bool:
    """Whether the last line has no end; it gets one, or it would swallow the next row."""
    size = os.fstat(fd).st_size
    return size > 0 and os.pread(fd, 1, size - 1) != b"\n"


def encode(row: Row | Layers) -> bytes:
    """One line of strict JSON: None is left out, a number that is not finite becomes "NaN", "Infinity", "-Infinity"."""
    plain = {name: _plain(value) for name, value in row.items() if value is not None}
    return json.dumps(plain, allow_nan=False, ensure_ascii=False).encode() + b"\n"


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):  # a numpy scalar
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
