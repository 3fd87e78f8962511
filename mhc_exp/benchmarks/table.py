"""The rows of a suite as a Markdown table, and the whole report around the tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mhc_exp.benchmarks.result import Cell, Result, Row
from mhc_exp.startup import PHASES

HEADINGS = {
    "tokens": "tokens",
    "streams": "streams",
    "width": "width",
    "depth": "depth",
    "iterations": "iterations",
    "pass": "pass",
    "wiring": "wiring",
    "tier": "tier",
    "clock": "clock",
    "difference": "difference",
    **{phase: phase for phase in PHASES},
    "ms": "ms",
    "total": "total",
    "mb": "MB",
    "mb_low": "min",
    "mb_high": "max",
    "ratio": "ratio",
    "to_eager": "to eager",
    "low": "min",
    "high": "max",
    "cpu_ms": "CPU ms",
    "cpu_ratio": "CPU ratio",
}
"""Column of a row -> its heading, in the order of the table."""
_WHOLE = ("tokens", "streams", "width", "depth", "iterations")
_WORDS = ("pass", "wiring", "tier", "clock")
_MEGABYTES = ("mb", "mb_low", "mb_high")
_MILLISECONDS = ("ms", "cpu_ms")


def markdown(result: Result) -> str:
    """One suite: what was measured, the table, the notes, the load."""
    load = result.load.text
    notes = "".join(f"\n- {note}" for note in [*result.notes, load[0].upper() + load[1:]])
    return f"## {result.suite}\n\n{result.about}\n\n{table(result.rows)}\n{notes}\n"


def table(rows: Sequence[Row]) -> str:
    """The columns that any row has, under their headings."""
    columns = [name for name in HEADINGS if any(name in row for row in rows)]
    lines = [[HEADINGS[name] for name in columns], ["---" if name in _WORDS else "---:" for name in columns]]
    lines += [[cell(name, row.get(name)) for name in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(name: str, value: Cell) -> str:
    """A value as the table shows it."""
    if value is None:
        return ""
    if name in _WHOLE or isinstance(value, str):
        return str(value)
    if name == "difference":
        return f"{value:.0e}"
    if name in _MEGABYTES:
        return f"{value:.0f}"
    return (
        f"{value:.3g}" if name in _MILLISECONDS and value < 100 else f"{value:.0f}" if value >= 100 else f"{value:.2f}"
    )


def heading(facts: dict[str, Any]) -> str:
    """Command, machine, date and code, above the tables."""
    git, versions = facts["git"], facts["versions"]
    code = "no checkout" if git is None else f"commit {git['commit'][:12]}{' with changes' if git['dirty'] else ''}"
    packages = ", ".join(f"{name} {version}" for name, version in versions.items() if version is not None)
    rounds = f"{facts['rounds']} round{'s' * (facts['rounds'] != 1)}"
    threads = f"{facts['threads']} thread{'s' * (facts['threads'] != 1)}"
    return (
        f"# {facts['command']}\n\n{facts['date']}, {code}\n{facts['processor']}, {facts['cpus']} cores usable; "
        f"backend {facts['device']}, {threads}; {rounds} in turns\n{packages}\n"
    )
