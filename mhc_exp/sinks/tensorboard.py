"""TensorBoard event files, written by the `tensorboard` package itself (neither torch nor tensorflow is loaded)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mhc_exp.runs.directory import RunDirectory
    from mhc_exp.sinks import Row


class TensorboardSink:
    """Numbers of every row as scalars, in `<run>/tensorboard/`."""

    name = "tensorboard"
    essential = False

    def __init__(self) -> None:
        self._writer: Any = None

    def open(self, run: RunDirectory, total_steps: int, resumed_at: int) -> None:
        """Raises ImportError with the line to type if tensorboard is not installed."""
        try:
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[attr-defined]
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            raise ImportError(f"{error}; type: pip install 'mhc-exp[tensorboard]'") from error
        self._writer = EventFileWriter(str(run.path / "tensorboard"), max_queue_size=1000)
        if resumed_at:
            # Tells the reader to forget what an earlier process logged beyond the checkpoint.
            start = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=time.time(), step=resumed_at + 1, session_log=start))

    def log(self, row: Row) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[attr-defined]
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[attr-defined]

        numbers = {name: value for name, value in row.items() if not isinstance(value, str) and name != "step"}
        values = [Summary.Value(tag=name, simple_value=float(value)) for name, value in numbers.items()]
        event = Event(wall_time=time.time(), step=int(row["step"]), summary=Summary(value=values))
        self._writer.add_event(event)

    def flush(self) -> None:
        pass  # waits for its writer thread, and nothing depends on it

    def close(self, state: str) -> None:
        if self._writer is not None:
            self._writer.close()
