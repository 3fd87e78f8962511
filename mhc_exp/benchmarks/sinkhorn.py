"""Suite `sinkhorn`: the chart of mHC alone, forward and backward, over the number of iterations."""

from __future__ import annotations

from mhc_exp.benchmarks.agreement import agree
from mhc_exp.benchmarks.cases import built, configuration, on, unmeasured
from mhc_exp.benchmarks.measure import Load, interleaved, together
from mhc_exp.benchmarks.result import Lines, Options, Result, Row
from mhc_exp.config.schema import Config

TOKENS, ITERATIONS = 2048, (5, 10, 20, 40)
QUICK_TOKENS, QUICK_ITERATIONS = 32, (2, 3)
TOLERANCE = 1e-5
"""Largest difference of float32 from the eager tier in float64."""


def run(options: Options) -> Result:
    """Raises Disagreement."""
    tokens, counts = (QUICK_TOKENS, QUICK_ITERATIONS) if options.quick else (TOKENS, ITERATIONS)
    rows, notes, loads = [], [], []
    for iterations in counts:
        measured, missing, load = _at(tokens, iterations, options)
        rows += measured
        notes += [note for note in missing if note not in notes]
        loads.append(load)
    about = f"Sinkhorn-Knopp of variant mhc on {tokens} matrices 4 x 4, normal logits; ratio: to the eager tier."
    about += " Difference: from the eager tier in float64, matrices and gradient."
    return Result("sinkhorn", about, rows, together(loads), Lines("iterations", "ms", ("tier",), ("pass",)), notes)


def _at(tokens: int, iterations: int, options: Options) -> tuple[list[Row], list[str], Load]:
    """The rows of one number of iterations, what is missing, and the load."""
    from mhc_exp.torch.benchmarks import DOUBLE, Chart

    words, calls, differences, notes = ["variant=mhc", f"variant.mix.iterations={iterations}"], {}, {}, []
    exact = configuration([*words, *on(options, "eager")])
    assert isinstance(exact, Config), exact
    expected = Chart(exact, tokens, DOUBLE).values()
    for tier in options.tiers:
        case = built(lambda found: Chart(found, tokens), configuration([*words, *on(options, tier)]))
        if isinstance(case, str):
            notes.append(unmeasured(tier, case))
            continue
        differences[tier] = agree(f"sinkhorn {tier}, {iterations} iterations", case.values(), expected, TOLERANCE)
        calls |= {("forward", tier): case.forward, ("backward", tier): case.backward}
    rounds = interleaved(calls, options.rounds)
    rows: list[Row] = []
    for which, tier in sorted(calls, key=lambda key: key[0] == "backward"):
        reference = (which, "eager") if (which, "eager") in calls else (which, tier)
        named: Row = {"iterations": iterations, "pass": which, "tier": tier, "difference": differences[tier]}
        rows.append(named | rounds.row((which, tier), reference))
    return rows, notes, rounds.load
