"""Suite `connection`: one connection around the identity, forward and backward, each tier against the eager one."""

from __future__ import annotations

from mhc_exp.benchmarks.agreement import agree
from mhc_exp.benchmarks.cases import WIRINGS, built, configuration, on, overrides, unmeasured
from mhc_exp.benchmarks.measure import Load, interleaved, together
from mhc_exp.benchmarks.result import Bars, Options, Result, Row, Unsuitable
from mhc_exp.config.schema import Config
from mhc_exp.config.variants import Streams

SHAPES, QUICK = ((1024, 64), (2048, 256), (4096, 512)), ((48, 16),)
"""Tokens and width; a wiring brings its number of streams."""
TOKENS = 2048
"""At any other width."""
TOLERANCE = 5e-5
"""Largest difference of float32 from the eager tier in float64: PyTorch sums static gradients over all tokens."""


def run(options: Options) -> Result:
    """Raises Disagreement and Unsuitable."""
    rows, notes, loads = [], [], []
    for tokens, width in shapes(options):
        measured, missing, load = _at(tokens, width, options)
        rows += measured
        notes += [note for note in missing if note not in notes]
        loads.append(load)
    about = "One connection around the identity, forward and backward; ratio: to the eager tier of the same wiring."
    about += " Difference: from the eager tier in float64, outputs and all gradients."
    return Result("connection", about, rows, together(loads), Bars(("ms",), panels=("tokens", "width")), notes)


def shapes(options: Options) -> list[tuple[int, int]]:
    """Tokens and width of each connection."""
    known = QUICK if options.quick else SHAPES
    if options.widths is None:
        return list(known)
    tokens = {width: tokens for tokens, width in known}
    return [(tokens.get(width, QUICK[0][0] if options.quick else TOKENS), width) for width in options.widths]


def _at(tokens: int, width: int, options: Options) -> tuple[list[Row], list[str], Load]:
    """The rows of one shape, what is missing, and the load."""
    from mhc_exp.torch.benchmarks import DOUBLE, Connection

    cases, differences, notes = {}, {}, []
    for wiring in options.wirings or WIRINGS:
        expected = Connection(_eager(wiring, options), tokens, width, DOUBLE).values()
        for tier in options.tiers:
            config = configuration([*overrides(wiring), *on(options, tier)])
            case = built(lambda found: Connection(found, tokens, width), config)
            if isinstance(case, str):
                notes.append(unmeasured(f"{wiring} {tier}", case))
                continue
            what = f"{wiring} {tier} at {tokens} tokens, width {width}"
            differences[wiring, tier] = agree(what, case.values(), expected, TOLERANCE)
            cases[wiring, tier] = case
    rounds = interleaved(cases, options.rounds)
    rows: list[Row] = []
    for (wiring, tier), case in cases.items():
        reference = (wiring, "eager") if (wiring, "eager") in cases else (wiring, tier)
        sizes: Row = {"tokens": tokens, "streams": case.variant.streams, "width": width}
        named: Row = {"wiring": wiring, "tier": tier, "difference": differences[wiring, tier]}
        rows.append(sizes | named | rounds.row((wiring, tier), reference))
    return rows, notes, rounds.load


def _eager(wiring: str, options: Options) -> Config:
    """The configuration of the tier that defines `wiring`. Raises Unsuitable if it has no connection of its own."""
    config = configuration([*overrides(wiring), *on(options, "eager")])
    if isinstance(config, str):
        raise Unsuitable(config)
    if isinstance(config.variant, Streams):
        return config
    raise Unsuitable(
        f"connection is for wirings of family streams, and {wiring} is one of {config.variant.family}; type "
        f"mhc-exp bench connection --wiring mhc, or mhc-exp bench step --wiring {wiring}"
    )
