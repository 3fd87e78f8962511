"""Reading the rows of a run: metrics.jsonl in, one table out, whatever a crash left of the file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    *("step", "tokens", "seconds"),
    *("train/loss", "train/grad_norm", "train/lr", "train/nonfinite_total"),
    *("val/loss", "val/excess", "val/accuracy", "val/bits_per_byte"),
    *("gain/proxy_log10_max_entry", "gain/forward_amax_mean", "gain/forward_amax_max"),
    *("gain/backward_amax_mean", "gain/backward_amax_max"),
    *("gain/min_column_sum", "gain/sigma_min_log10", "gain/uniform_distance"),
    *("streams/cosine", "streams/effective"),
    *("mix/identity_distance", "mix/sinkhorn_residual", "mix/grad_norm"),
    *("perf/tokens_per_second", "perf/step_seconds", "perf/peak_memory_bytes", "perf/mfu"),
)
"""Columns that every table has, in this order, NaN where a run does not measure them."""


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
    file = Path(run_dir) / "metrics.jsonl"
    lines = file.read_bytes().split(b"\n") if file.is_file() else [b""]
    tail = lines.pop()
    parsed = [_row(line) for line in lines]
    last = _row(tail) if tail else None
    rows = {row["step"]: row for row in (*parsed, last) if row is not None}
    return Records([rows[step] for step in sorted(rows)], parsed.count(None), bool(tail) and last is None)


def read_rows(run_dir: str | Path) -> pd.DataFrame:
    """Table of the rows of a run: `COLUMNS` as numbers, then whatever else was logged.

    `attrs` counts what was left out: `broken_lines` and `torn_tail`.
    """
    import pandas as pd

    records = read_records(run_dir)
    table = pd.DataFrame({column: [_number(row.get(column)) for row in records.rows] for column in COLUMNS})
    table = table.astype("float64").astype({"step": "int64"})
    for column in sorted({name for row in records.rows for name in row} - set(COLUMNS)):
        table[column] = [row.get(column) for row in records.rows]
    table.attrs.update(broken_lines=records.broken, torn_tail=records.torn)
    return table


def _number(value: Any) -> float:
    """`value` as a float, NaN if it is not a number."""
    return float(value) if isinstance(value, int | float) else math.nan


def _row(line: bytes) -> dict[str, Any] | None:
    """The row in `line`; None if it is none. Bare NaN and Infinity, which strict JSON lacks, count as not measured."""
    try:
        row = json.loads(line, parse_constant=lambda _: None)
    except ValueError:
        return None
    step = row.get("step") if isinstance(row, dict) else None
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < 2**63:
        return None
    return {name: value for name, value in row.items() if value is not None}
