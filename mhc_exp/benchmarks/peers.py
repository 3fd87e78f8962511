"""Suite `peers`: other people's wrappers around the identity beside ours, on the same streams."""

from __future__ import annotations

import itertools

from mhc_exp.benchmarks.agreement import Disagreement, agree
from mhc_exp.benchmarks.cases import built, configuration, on, unmeasured
from mhc_exp.benchmarks.connection import shapes
from mhc_exp.benchmarks.measure import Load, interleaved, together
from mhc_exp.benchmarks.result import Bars, Options, Result, Row
from mhc_exp.config.schema import Config

OURS = ("mhc", "hc")
TOLERANCE = 1e-4
"""Largest difference between lucidrains' HC and ours, both in float32."""


def run(options: Options) -> Result:
    """Raises Disagreement."""
    from mhc_exp.torch.benchmarks import peers_missing

    rows, loads = [], []
    missing = peers_missing()
    notes = [] if missing is None else [unmeasured("peers", missing)]
    for tokens, width in shapes(options):
        measured, unavailable, load = _at(tokens, width, options, with_peers=missing is None)
        rows += measured
        notes += [note for note in unavailable if note not in notes]
        loads.append(load)
    about = "One connection around the identity, forward and backward; ratio: to our mhc in the first tier that can be"
    about += (
        " had. Difference: from our eager tier of the same equations, in float32; empty where the equations differ."
    )
    return Result("peers", about, rows, together(loads), Bars(("ms",), panels=("tokens", "width")), notes)


def _at(tokens: int, width: int, options: Options, *, with_peers: bool) -> tuple[list[Row], list[str], Load]:
    from mhc_exp.torch.benchmarks import Connection, peers

    eager: dict[str, Connection] = {}
    for wiring in OURS:
        config = configuration([f"variant={wiring}", *on(options, "eager")])
        assert isinstance(config, Config), config
        eager[wiring] = Connection(config, tokens, width)
    calls, differences, notes = {}, {}, []
    for tier, wiring in itertools.product(sorted(options.tiers, key="eager".__eq__), OURS):  # eager comes last
        config = configuration([f"variant={wiring}", *on(options, tier)])
        case = built(lambda found: Connection(found, tokens, width), config)
        if isinstance(case, str):
            notes.append(unmeasured(f"{wiring} {tier}", case))
            continue
        if tier != "eager":
            what = f"{wiring} {tier} at {tokens} tokens, width {width}"
            differences[wiring, tier] = agree(what, case.values(), eager[wiring].values(), TOLERANCE)
        calls[wiring, tier] = case
    for name, peer, same in peers(eager["hc"]) if with_peers else ():
        found, expected = peer.values(), eager["hc"].values()
        if same:
            known = {key: expected[key] for key in found}
            differences[name, "theirs"] = agree(f"{name} at {tokens} tokens, width {width}", found, known, TOLERANCE)
        elif not all(abs(array).max() < float("inf") for array in found.values()):
            raise Disagreement(f"{name} at {tokens} tokens, width {width}: a number is not finite; nothing was timed")
        calls[name, "theirs"] = peer
    rounds = interleaved(calls, options.rounds)
    reference = next(iter(calls))
    sizes: Row = {"tokens": tokens, "streams": 4, "width": width}
    rows = [
        sizes | {"wiring": key[0], "tier": key[1], "difference": differences.get(key)} | rounds.row(key, reference)
        for key in calls
    ]
    return rows, notes, rounds.load
