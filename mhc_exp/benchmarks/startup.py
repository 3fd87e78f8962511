"""Suite `startup`: from the start of a process to the end of its first training step, in phases."""

from __future__ import annotations

import statistics

from mhc_exp.benchmarks.cases import DEEP, TINY, field_of, keys, words
from mhc_exp.benchmarks.children import measured
from mhc_exp.benchmarks.first_step import PHASES
from mhc_exp.benchmarks.measure import Watch
from mhc_exp.benchmarks.result import Bars, Options, Result, Row

MODULE = "mhc_exp.benchmarks.first_step"
WIDTH, DEPTH = 64, 48
UNTIL_FIRST_STEP = PHASES[:-1]


def run(options: Options) -> Result:
    """Raises Disagreement and ChildFailed."""
    width = TINY if options.quick else (options.widths or (WIDTH,))[0]
    depth = (options.depths or ((1,) if options.quick else (DEPTH,)))[0]
    field = field_of(keys(options.wirings or DEEP, options.tiers), options, depth, width)
    watch = Watch()
    found = {key: [] for key in field.models}
    for _ in range(options.rounds):
        for key, children in found.items():
            children.append(measured(MODULE, words(key, options, depth, width)))
    rows: list[Row] = []
    for key, children in found.items():
        row: Row = {"width": width, "depth": depth, "wiring": key[0], "tier": key[1]}
        row["difference"] = field.differences.get(key)
        row |= {phase: statistics.median(child[phase] for child in children) for phase in PHASES}
        totals = [sum(child[phase] for phase in UNTIL_FIRST_STEP) for child in children]
        row |= {"total": statistics.median(totals), "low": min(totals), "high": max(totals)}
        rows.append(row | {"cpu": statistics.median(child["cpu"] for child in children)})
    about = "Seconds from the start of a process to the end of its first step, median of every phase; total, smallest"
    about += " and largest are of whole processes. Not in it: the run directory, and the evaluation before step 1."
    picture = Bars(UNTIL_FIRST_STEP)
    return Result("startup", about, rows, watch.load(), picture, field.notes)
