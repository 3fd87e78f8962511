"""Reading the rows of a run: metrics.jsonl in, one table out, whatever a crash left of the file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mhc_exp.analysis.facts import decode

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    *("step", "tokens", "seconds"),
    *("train/loss", "train/grad_norm", "train/lr", "train/nonfinite_total"),
    *("val/loss", "val/excess", "val/accuracy", "val/bits_per_byte"),
    *("gain/proxy_log10_max_entry", "gain/forward_amax_mean", "gain/forward_amax_max"),
    *("gain/backward_amax_mean", "gain/backward_amax_max"),
    *("gain/min_column_sum", "gain/sigma_min_log10", "gain/uniform_distance"),
    *("streams/cosine", "streams/effective", "streams/dominant_share"),
    *("mix/identity_distance", "mix/sinkhorn_residual", "mix/grad_norm"),
    *("alpha/read", "alpha/write", "alpha/mix", "grad/tangent_share"),
    *("history/entropy", "history/mean_distance", "history/largest"),
    *("perf/tokens_per_second", "perf/step_seconds", "perf/peak_memory_bytes", "perf/mfu"),
)
"""Columns that every table has, in this order, NaN where a run does not measure them."""

RESERVED = {"run", "connection"}
"""Columns that the tables add; a row that has one of its own loses it."""

try:  # three times faster; extra `analysis` brings it
    from orjson import loads as _strict
except ImportError:
    _strict = None


class Records(NamedTuple):
    """Rows as written, one dict per step in order of steps."""

    rows: list[dict[str, Any]]
    broken: int
    """Complete lines that are not a row."""
    torn: bool
    """Whether the last line was cut off in the middle of writing."""

    def series(self, column: str) -> tuple[list[int], list[float]]:
        """Steps at which `column` was measured, and the values."""
        found = [(row["step"], value) for row in self.rows if math.isfinite(value := _number(row.get(column)))]
        return [step for step, _ in found], [value for _, value in found]

    def last(self, column: str) -> float | None:
        """Newest value of `column`, or None if it was never measured."""
        values = self.series(column)[1]
        return values[-1] if values else None


def read_records(run_dir: str | Path) -> Records:
    """Rows of `run_dir`/metrics.jsonl without pandas; no file is no rows.

    A step written twice (a run that was resumed from an earlier checkpoint) keeps its last row.
    """
    return _read(Path(run_dir) / "metrics.jsonl")


def _read(file: Path) -> Records:
    lines = file.read_bytes().split(b"\n") if file.is_file() else [b""]
    tail = lines.pop()
    parsed = [_row(line) for line in lines]
    last = _row(tail) if tail else None
    return Records(by_step((*parsed, last)), parsed.count(None), bool(tail) and last is None)


def read_layers(run_dir: str | Path) -> list[dict[str, Any]]:
    """Lines of `run_dir`/layers.jsonl, one per diagnosed step: every value but `step` is a list over connections."""
    return _read(Path(run_dir) / "layers.jsonl").rows


def by_step(rows: Iterable[dict[str, Any] | None]) -> list[dict[str, Any]]:
    """`rows` in order of their steps, the last one of each step; what is no row is left out."""
    kept = {row["step"]: row for row in rows if row is not None}
    return [kept[step] for step in sorted(kept)]


def read_rows(run_dir: str | Path) -> pd.DataFrame:
    """Table of the rows of a run: `COLUMNS` as numbers, then whatever else was logged.

    `attrs` counts what was left out: `broken_lines` and `torn_tail`.
    """
    import pandas as pd

    records = read_records(run_dir)
    table = pd.DataFrame(columns_of(records.rows))
    table.attrs.update(broken_lines=records.broken, torn_tail=records.torn)
    return table


def columns_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """`COLUMNS` as arrays of numbers, then every other name logged: numbers if all of it is, else as it was."""
    import pandas as pd

    found = pd.DataFrame(list(rows))
    nothing = np.full(len(rows), np.nan)
    table: dict[str, Any] = {}
    for column in (*COLUMNS, *sorted(set(found) - set(COLUMNS))):
        if column not in found:
            table[column] = nothing
        elif found[column].dtype.kind in "iuf":
            table[column] = found[column].to_numpy(np.float64)
        else:
            values = [row.get(column) for row in rows]
            words = column not in COLUMNS and str in set(map(type, values))
            table[column] = np.array(values, object) if words else numbers(values)
    table["step"] = np.array([row["step"] for row in rows], np.int64)
    return table


def numbers(values: list[Any]) -> np.ndarray:
    """`values` as float64, NaN for what is no number."""
    if set(map(type, values)) <= {int, float, type(None)}:
        return np.array(values, np.float64)  # numpy reads None as NaN
    return np.array([_number(value) for value in values], np.float64)


def _number(value: Any) -> float:
    """`value` as a float, NaN if it is not a number."""
    return float(value) if isinstance(value, int | float) else math.nan


def is_row(line: bytes) -> bool:
    """Whether `line`, without its line break, is a row."""
    return _row(line) is not None


def _row(line: bytes) -> dict[str, Any] | None:
    """The row in `line`; None if it is none. Bare NaN and Infinity, which strict JSON lacks, count as not measured."""
    try:
        return checked(_strict(line) if _strict else decode(line.decode()))
    except ValueError:
        pass
    try:
        return checked(decode(line.decode()))
    except ValueError:
        return None


def checked(row: Any) -> dict[str, Any] | None:
    """`row` without empty cells and `RESERVED` columns if it has a step, else None."""
    step = row.get("step") if isinstance(row, dict) else None
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < 2**63:
        return None
    if None not in row.values() and RESERVED.isdisjoint(row):
        return row
    return {name: value for name, value in row.items() if value is not None and name not in RESERVED}
