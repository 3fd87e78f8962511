"""Rows for a person who watches: a live bar on a terminal, one line per row everywhere else."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from mhc_exp.runs.tee import Tee

if TYPE_CHECKING:
    from mhc_exp.runs.directory import RunDirectory
    from mhc_exp.sinks import Row


class ConsoleSink:
    """Writes to sys.stdout as it is when the run opens."""

    name = "console"
    essential = False

    def __init__(self) -> None:
        self._total = 0
        self._first = 0
        self._started = 0.0
        self._bar: _Bar | None = None

    def open(self, run: RunDirectory, total_steps: int, resumed_at: int) -> None:
        self._total, self._first, self._started = total_steps, resumed_at, time.monotonic()
        start = f"resumes after step {resumed_at}" if resumed_at else "starts"
        print(f"{run.name} {start}, {total_steps} steps in all; {run.path}", flush=True)
        if (kernels := run.identity.get("kernels", "eager")) != "eager":
            print(f"kernels: {kernels}", flush=True)
        if (recompute := run.identity.get("recompute", "none")).startswith(("blocks", "connections")):
            print(f"recompute: {recompute}", flush=True)
        terminal = sys.stdout.terminal if isinstance(sys.stdout, Tee) else sys.stdout
        if is_live(terminal):
            self._bar = _Bar.start(terminal, total_steps, resumed_at)

    def log(self, row: Row) -> None:
        step = int(row["step"])
        line = f"step {step:>{len(str(self._total))}}/{self._total}{self._eta(step)}  {describe(row)}".rstrip()
        if self._bar is None:
            print(line, flush=True)
        else:
            self._bar.advance(step, describe(row))
            if isinstance(sys.stdout, Tee):
                sys.stdout.write_log(line + "\n")

    def flush(self) -> None:
        pass

    def close(self, state: str) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _eta(self, step: int) -> str:
        done = step - self._first
        if done <= 0 or step >= self._total:
            return ""
        seconds = (time.monotonic() - self._started) / done * (self._total - step)
        return f"  ETA {clock(seconds)}"


class _Bar:
    """rich's progress bar; lines printed meanwhile appear above it."""

    def __init__(self, progress: Any, task: Any, tees: list[Tee]) -> None:
        self._progress, self._task, self._tees = progress, task, tees

    @classmethod
    def start(cls, terminal: TextIO, total: int, completed: int) -> _Bar | None:
        try:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        except ImportError:  # a bare training machine: lines instead of a bar
            return None
        console = Console(file=terminal)  # rich respects NO_COLOR itself
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[row]}"))
        # Standard output is redirected by Tee, which also writes the log; rich would write the terminal alone.
        progress = Progress(
            *columns, console=console, refresh_per_second=4, redirect_stdout=False, redirect_stderr=False
        )
        task = progress.add_task("", total=total, completed=completed, row="")
        tees = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, Tee)]
        progress.start()
        for tee in tees:
            tee.show = lambda text: console.print(text, end="", markup=False, highlight=False, soft_wrap=True)
        return cls(progress, task, tees)

    def advance(self, step: int, row: str) -> None:
        self._progress.update(self._task, completed=step, row=row)

    def stop(self) -> None:
        for tee in self._tees:
            tee.show = None
        self._progress.stop()


def is_live(stream: TextIO) -> bool:
    """Whether `stream` is a terminal that can redraw a line."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


_COLUMNS = (
    ("train/loss", "loss {:.4f}"),
    ("val/loss", "val {:.4f}"),
    ("val/excess", "excess {:.4f}"),
    ("val/accuracy", "acc {:.3f}"),
    ("val/bits_per_byte", "bpb {:.3f}"),
    ("train/grad_norm", "grad {:.3g}"),
    ("gain/forward_amax_max", "gain {:.3g}"),
    ("perf/tokens_per_second", "{:,.0f} tok/s"),
)


def describe(row: Row) -> str:
    """The numbers of a row that people watch."""
    shown = [form.format(row[name]) for name, form in _COLUMNS if isinstance(row.get(name), int | float)]
    shown += [f"not finite: {row['nonfinite']}"] if "nonfinite" in row else []
    return "  ".join(shown)


def clock(seconds: float) -> str:
    """`4:05` or `1:04:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
