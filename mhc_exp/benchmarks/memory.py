"""Suite `memory`: by how much a training step makes a process larger, over depth and tier."""

from __future__ import annotations

import statistics

from mhc_exp.benchmarks.cases import BASELINE, DEEP, TINY, Key, field_of, keys, words
from mhc_exp.benchmarks.children import measured
from mhc_exp.benchmarks.measure import Watch
from mhc_exp.benchmarks.result import Lines, Options, Result, Row

MODULE = "mhc_exp.benchmarks.peak"
WIDTH, DEPTHS, QUICK_DEPTHS = 64, (12, 48, 96), (1, 2)
REPETITIONS = 3
"""Processes per row at most: a peak of memory is nearly the same every time."""


def run(options: Options) -> Result:
    """Raises Disagreement and ChildFailed."""
    width = TINY if options.quick else (options.widths or (WIDTH,))[0]
    depths = sorted(options.depths or (QUICK_DEPTHS if options.quick else DEPTHS))
    wanted = keys(options.wirings or DEEP, options.tiers)
    field = field_of(wanted, options, depths[0], width)
    watch = Watch()
    megabytes: dict[tuple[Key, int], list[float]] = {}
    for _ in range(min(options.rounds, REPETITIONS)):
        for key in field.models:
            for depth in depths:
                found = measured(MODULE, words(key, options, depth, width))
                megabytes.setdefault((key, depth), []).append((found["peak"] - found["before"]) / 1e6)
    medians = {where: statistics.median(values) for where, values in megabytes.items()}
    rows: list[Row] = []
    for (key, depth), values in sorted(megabytes.items(), key=lambda item: (wanted.index(item[0][0]), item[0][1])):
        row: Row = {"width": width, "depth": depth, "wiring": key[0], "tier": key[1]}
        if depth == depths[0]:
            row["difference"] = field.differences.get(key)
        row |= {"mb": medians[key, depth], "mb_low": min(values), "mb_high": max(values)}
        row["ratio"] = medians[key, depth] / medians[BASELINE, depth]
        eager = medians.get(((key[0], "eager"), depth))
        rows.append(row | ({"to_eager": medians[key, depth] / eager} if eager else {}))
    about = "Largest resident memory during two training steps minus what was held before them, in processes of their"
    about += " own; ratio: to the baseline. Difference: of all gradients from the eager tier, at the smallest depth."
    return Result("memory", about, rows, watch.load(), Lines("depth", "mb"), field.notes)
