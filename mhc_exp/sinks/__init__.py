"""Where rows go. metrics.jsonl is the truth and always on; everything else may fail without hurting the run."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mhc_exp.runs.directory import RunDirectory
    from mhc_exp.sinks.jsonl import JsonlSink

Row = dict[str, float | int | str]
Layers = Mapping[str, int | list[float | None]]
"""A row of layers.jsonl: the step, and a list with one number per connection for every column."""


def finite(row: Row) -> Row:
    """`row` without the numbers that are not finite, which are named under `nonfinite` instead."""
    bad = {name: value for name, value in row.items() if not isinstance(value, str) and not math.isfinite(value)}
    if not bad:
        return row
    kept = {name: value for name, value in row.items() if name not in bad}
    return {**kept, "nonfinite": " ".join(f"{name}={value}" for name, value in bad.items())}


class Sink(Protocol):
    """One destination of rows."""

    name: str
    essential: bool
    """True for the record itself: what it raises is a defect of the program and must be seen."""

    def open(self, run: RunDirectory, total_steps: int, resumed_at: int) -> None: ...

    def log(self, row: Row) -> None: ...

    def flush(self) -> None:
        """Make sure that the rows so far survive a power cut, if this sink promises so."""
        ...

    def close(self, state: str) -> None:
        """The run ends as done, diverged, interrupted or failed."""
        ...


class Fanout:
    """Gives every row to every sink. A sink that raises is reported once, closed, and not asked again.

    What is measured connection by connection goes to `layers` alone: trackers would need thousands of names for it.
    """

    def __init__(self, sinks: Sequence[Sink], layers: JsonlSink | None = None) -> None:
        self._layers = layers
        self._active = [*sinks, *([layers] if layers else [])]

    def open(self, run: RunDirectory, total_steps: int, resumed_at: int) -> None:
        self._each(lambda sink: sink.open(run, total_steps, resumed_at))

    def log(self, row: Row) -> None:
        self._each(lambda sink: None if sink is self._layers else sink.log(dict(row)))

    def log_layers(self, row: Layers) -> None:
        if self._layers:
            self._layers.log(row)

    def flush(self) -> None:
        self._each(lambda sink: sink.flush())

    def close(self, state: str) -> None:
        self._each(lambda sink: sink.close(state))
        self._active.clear()

    def _each(self, call: Callable[[Sink], None]) -> None:
        for sink in list(self._active):
            try:
                call(sink)
            except Exception as error:
                if sink.essential:
                    raise
                self._active.remove(sink)
                message = f"{sink.name}: {type(error).__name__}: {error}; off from now on, training continues"
                print(message, file=sys.stderr, flush=True)
                with contextlib.suppress(Exception):
                    sink.close("failed")
