"""What a run has written down, as the tests of sinks read it."""

from __future__ import annotations

from mhc_exp.analysis.rows import read_records
from mhc_exp.runs.directory import RunDirectory


def steps(run: RunDirectory) -> list[int]:
    return [row["step"] for row in read_records(run.path).rows]
