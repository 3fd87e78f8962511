"""Console output that also goes into train.log, without the secrets of the environment."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from mhc_exp.runs.redaction import redact


class Tee:
    """Stands in for sys.stdout or sys.stderr: whole lines go to the log, everything to the terminal.

    A live display sets `show`, so that lines printed by others appear above it.
    """

    def __init__(self, terminal: TextIO, log: int | None) -> None:
        """`log` is a file descriptor opened for appending, or None if `terminal` is the log already."""
        self.terminal = terminal
        self.show: Callable[[str], object] | None = None
        self._log = log
        self._line = ""

    def write(self, text: str) -> int:
        """Never raises: a closed terminal or a full disk is no reason to stop training."""
        clean = redact(text)
        whole, newline, rest = (self._line + clean).rpartition("\n")
        self._line = rest
        if newline:
            self.write_log(whole + newline)
        with contextlib.suppress(OSError, ValueError):
            if self.show is None:
                self.terminal.write(clean)
                self.terminal.flush()
            elif newline:
                self.show(whole + newline)
        return len(text)

    def write_log(self, text: str) -> None:
        """Text for train.log alone."""
        if self._log is not None:
            with contextlib.suppress(OSError):
                os.write(self._log, redact(text).encode(errors="replace"))

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.terminal.flush()

    def finish(self) -> None:
        """Write a last line that has no end."""
        if self._line:
            self.write_log(self._line + "\n")
            self._line = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.terminal, name)


@contextlib.contextmanager
def teed(log: Path) -> Iterator[None]:
    """Within the block stdout and stderr also go to `log`; a stream that is that file already is written once."""
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    previous = sys.stdout, sys.stderr
    streams = [Tee(stream, None if _is(stream, fd) else fd) for stream in previous]
    sys.stdout, sys.stderr = streams  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = previous
        for stream in streams:
            stream.finish()
        os.close(fd)


def _is(stream: TextIO, fd: int) -> bool:
    try:
        return os.path.sameopenfile(stream.fileno(), fd)
    except (OSError, ValueError, AttributeError):  # captured by a test, or closed
        return False
