"""Suite `step`: a whole training step of every wiring and tier over the baseline's, same body, same batch."""

from __future__ import annotations

import itertools

from mhc_exp.benchmarks.cases import BASELINE, TINY, WIRINGS, batch_text, field_of, keys
from mhc_exp.benchmarks.measure import Load, interleaved, together
from mhc_exp.benchmarks.result import Bars, Options, Result, Row

WIDTHS, DEPTHS = (64,), (12,)


def run(options: Options) -> Result:
    """Raises Disagreement."""
    widths = options.widths or ((TINY,) if options.quick else WIDTHS)
    depths = options.depths or ((1,) if options.quick else DEPTHS)
    rows, notes, loads = [], [], []
    for width, depth in itertools.product(widths, depths):
        measured, missing, load = _at(width, depth, options)
        rows += measured
        notes += [note for note in missing if note not in notes]
        loads.append(load)
    sizes = " and ".join(dict.fromkeys(batch_text(options, width) for width in widths))
    about = f"A training step (forward, backward, AdamW) on {sizes}; ratio: to the baseline. Difference: of all"
    about += " gradients from the eager tier."
    return Result("step", about, rows, together(loads), Bars(panels=("width", "depth")), notes)


def _at(width: int, depth: int, options: Options) -> tuple[list[Row], list[str], Load]:
    field = field_of(keys(options.wirings or tuple(WIRINGS), options.tiers), options, depth, width)
    rounds = interleaved({key: model.step for key, model in field.models.items()}, options.rounds)
    rows: list[Row] = []
    for key in field.models:
        named: Row = {"width": width, "depth": depth, "wiring": key[0], "tier": key[1]}
        rows.append(named | {"difference": field.differences.get(key)} | rounds.row(key, BASELINE))
    return rows, field.notes, rounds.load
