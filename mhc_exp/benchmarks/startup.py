"""Suite `startup`: `python -m mhc_exp ...` from the start of the process to the end of its first update, in phases."""

from __future__ import annotations

import statistics

from mhc_exp.benchmarks.cases import DEEP, TINY, field_of, keys, words
from mhc_exp.benchmarks.children import started
from mhc_exp.benchmarks.measure import Watch
from mhc_exp.benchmarks.result import Bars, Options, Result, Row
from mhc_exp.startup import PHASES

WIDTH, DEPTH = 64, 48
MEASURING = ("evaluation", "diagnosis")
CLOCKS = ("wall", "CPU")
"""What the two numbers of a phase are."""


def run(options: Options) -> Result:
    """Raises Disagreement and ChildFailed."""
    width = TINY if options.quick else (options.widths or (WIDTH,))[0]
    depth = (options.depths or ((1,) if options.quick else (DEPTH,)))[0]
    field = field_of(keys(options.wirings or DEEP, options.tiers), options, depth, width)
    watch = Watch()
    found = {key: [] for key in field.models}
    for _ in range(options.rounds):
        for key, children in found.items():
            children.append(started(words(key, options, depth, width)))
    rows: list[Row] = []
    for key, children in found.items():
        for clock, name in enumerate(CLOCKS):
            row: Row = {"width": width, "depth": depth, "wiring": key[0], "tier": key[1], "clock": name}
            row["difference"] = field.differences.get(key)
            row |= {phase: statistics.median(child[phase][clock] for child in children) for phase in PHASES}
            totals = [sum(child[phase][clock] for phase in PHASES) for child in children]
            rows.append(row | {"total": statistics.median(totals), "low": min(totals), "high": max(totals)})
    about = (
        "Seconds of `python -m mhc_exp` from the start of its process to the end of its first update, median of every "
    )
    about += (
        "phase; total, smallest and largest are of whole processes. Before the update the row of step 0 is measured: "
    )
    about += "evaluation and diagnosis of the initial weights."
    picture = Bars(PHASES, by=("wiring", "tier", "clock"))
    return Result("startup", about, rows, watch.load(), picture, [*field.notes, *map(_without_row, rows)])


def _without_row(row: Row) -> str:
    """The part of a start that every program has which trains: without measuring the initial weights."""
    spent = sum(float(row[phase] or 0) for phase in PHASES if phase not in MEASURING)
    return f"{row['wiring']} {row['tier']}: {spent:.2f} s {row['clock']} without {' and '.join(MEASURING)} of step 0"
