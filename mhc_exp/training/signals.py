"""Stop requests: SIGINT and SIGTERM set a flag that the loop reads between steps."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_NOTICE = b"\nstopping after this step and saving; signal again to quit at once without saving\n"


class StopRequest:
    """Context manager: inside it the first SIGINT or SIGTERM is only noted, the second ends the process at once.

    Python delivers signals to the main thread alone, so elsewhere (a job of a thread pool) nothing is installed and
    `requested` stays None unless someone calls `request`. The old handlers are back after the block.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        """Number of the first signal received, or None."""
        self._previous: dict[int, Any] = {}

    def request(self, number: int = signal.SIGTERM) -> None:
        """Ask the loop to stop as if signal `number` had come."""
        self.requested = int(number)

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            # None means a handler that Python did not install and cannot put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None:
            os._exit(128 + number)
        self.requested = number
        with contextlib.suppress(OSError):  # a closed terminal must not become an error inside training
            os.write(2, _NOTICE)
