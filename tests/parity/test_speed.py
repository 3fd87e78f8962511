"""The native tier stays much faster than the eager one, in processor time: a lost kernel fails, a busy machine passes.

Bounds are generous: what is measured stands in docs/results/performance.md.
"""

from __future__ import annotations

from collections.abc import Callable

from mhc_exp.benchmarks.cases import BASELINE, field_of
from mhc_exp.benchmarks.measure import interleaved
from mhc_exp.benchmarks.result import Options
from mhc_exp.config.compose import compose
from mhc_exp.torch.benchmarks import Chart, Connection

ATTEMPTS, ROUNDS = 3, 5
OPTIONS = Options("cpu", 1, ROUNDS, None, ("eager", "native"), None, None, quick=False)


def best(measure: Callable[[], float]) -> float:
    """The smallest of some attempts: caches shared with other processes make processor time longer, never shorter."""
    return min(measure() for _ in range(ATTEMPTS))


def tiers(*overrides: str):
    return {
        tier: compose([*overrides, "backend=cpu", "backend.threads=1", f"backend.kernels={tier}"])
        for tier in ("eager", "native")
    }


def test_a_native_connection():
    """Measured on a busy machine: 0.36."""
    cases = {tier: Connection(config, 1024, 64) for tier, config in tiers("variant=mhc").items()}
    assert cases["native"].tier.name == "native"
    assert best(lambda: interleaved(cases, ROUNDS).cpu_ratio("native", "eager")) < 0.7


def test_native_matrices():
    cases = {tier: Chart(config, 1024) for tier, config in tiers("variant=mhc").items()}
    for which in ("forward", "backward"):
        calls = {tier: getattr(case, which) for tier, case in cases.items()}
        assert best(lambda: interleaved(calls, ROUNDS).cpu_ratio("native", "eager")) < 0.8  # noqa: B023


def test_a_whole_step_over_the_baselines():
    """Measured on a busy machine: 1.6; the eager tier: 2.6."""
    mhc = ("mhc", "native")
    models = field_of([BASELINE, mhc], OPTIONS, depth=4, width=64).models
    calls = {key: model.step for key, model in models.items()}
    assert best(lambda: interleaved(calls, ROUNDS).cpu_ratio(mhc, BASELINE)) < 2.2
