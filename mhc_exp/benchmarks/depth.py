"""Suite `depth`: step time from 12 to 192 blocks, and how far it is from growing linearly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mhc_exp.benchmarks.cases import BASELINE, DEEP, TINY, Key, batch_text, field_of, keys
from mhc_exp.benchmarks.measure import interleaved
from mhc_exp.benchmarks.result import Lines, Options, Result, Row

WIDTH, DEPTHS, QUICK_DEPTHS = 64, (12, 24, 48, 96, 192), (1, 2, 3)


def run(options: Options) -> Result:
    """Raises Disagreement."""
    width = TINY if options.quick else (options.widths or (WIDTH,))[0]
    depths = sorted(options.depths or (QUICK_DEPTHS if options.quick else DEPTHS))
    wanted = keys(options.wirings or DEEP, options.tiers)
    fields = {depth: field_of(wanted, options, depth, width) for depth in depths}
    models = {(key, depth): model for depth, field in fields.items() for key, model in field.models.items()}
    rounds = interleaved({key: model.step for key, model in models.items()}, options.rounds)
    rows: list[Row] = []
    seconds: dict[Key, list[float]] = {}
    for (key, depth), _ in sorted(models.items(), key=lambda item: (wanted.index(item[0][0]), item[0][1])):
        row: Row = {"width": width, "depth": depth, "wiring": key[0], "tier": key[1]}
        row["difference"] = fields[depth].differences.get(key)
        rows.append(row | rounds.row((key, depth), (BASELINE, depth)))
        seconds.setdefault(key, []).append(rounds.median((key, depth)).cpu)
    notes = list(dict.fromkeys(note for field in fields.values() for note in field.notes))
    notes += [f"{' '.join(key)}: {_sentence(depths, times)}" for key, times in seconds.items()]
    about = (
        f"A training step at width {width} on {batch_text(options, width)}, over the number of blocks; ratio: to the"
    )
    about += " baseline of the same depth. Difference: of all gradients from the eager tier."
    return Result("depth", about, rows, rounds.load, Lines("depth", "ms"), notes)


def departure(depths: Sequence[int], seconds: Sequence[float]) -> float:
    """Largest relative distance of a step time from the line a + b depth that fits all of them best, relatively."""
    found, blocks = np.asarray(seconds), np.asarray(depths)
    design = np.stack([np.ones(len(blocks)), blocks], axis=1) / found[:, None]
    line, *_ = np.linalg.lstsq(design, np.ones(len(found)), rcond=None)
    return float(np.abs(design @ line - 1).max())


def _sentence(depths: Sequence[int], seconds: Sequence[float]) -> str:
    if len(depths) < 3:
        return "linearity needs three depths"
    slope = 1e3 * (seconds[-1] - seconds[0]) / (depths[-1] - depths[0])
    apart = 100 * departure(depths, seconds)
    return f"{slope:.2f} ms of CPU a block; no depth is farther than {apart:.1f} % from the straight line through all"
