"""What `mhc-exp bench` computes from its measurements, on numbers that are known."""

from __future__ import annotations

import math
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from mhc_exp.benchmarks import measure
from mhc_exp.benchmarks.agreement import Disagreement, agree, difference
from mhc_exp.benchmarks.children import ChildFailed, measured
from mhc_exp.benchmarks.depth import departure
from mhc_exp.benchmarks.measure import Load, Rounds, Seconds, Watch, interleaved, together
from mhc_exp.benchmarks.table import cell, table


def test_calls_take_turns_and_warm_up_first():
    calls = []

    def slow(name: str):
        return lambda: (calls.append(name), time.sleep(0.03))

    rounds = interleaved({"a": slow("a"), "b": slow("b")}, rounds=3)
    assert "".join(calls) == "ab" + "ab" + 3 * "ab"
    assert [len(times) for times in rounds.seconds.values()] == [3, 3]
    assert all(time.wall >= 0.03 > time.cpu for times in rounds.seconds.values() for time in times)


def test_a_short_call_is_repeated_and_its_time_is_of_one_call(monkeypatch: pytest.MonkeyPatch):
    count = 0

    def call():
        nonlocal count
        count += 1

    def clock() -> float:
        return 0.25 * measure.TURN * count

    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=clock, process_time=clock, monotonic=clock))
    rounds = interleaved({"short": call}, rounds=2)
    assert count == 2 + 2 * 4
    assert rounds.median("short") == pytest.approx(Seconds(measure.TURN / 4, measure.TURN / 4))


def test_ratios_are_of_the_same_round():
    """A load that doubles both in the second round changes no ratio."""
    own = [Seconds(2.0, 1.0), Seconds(4.0, 1.0), Seconds(2.2, 1.0)]
    other = [Seconds(1.0, 0.5), Seconds(2.0, 0.5), Seconds(1.0, 0.5)]
    rounds = Rounds({"own": own, "other": other}, Load(0.0, 1.0))
    assert rounds.ratio("own", "other") == pytest.approx((2.0, 2.0, 2.2))
    assert rounds.cpu_ratio("own", "other") == 2.0
    assert rounds.row("own", "other")["ms"] == pytest.approx(2200)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/stat is Linux's")
def test_the_system_tells_what_all_processes_use():
    busy, own, until = measure.busy_seconds(), measure.own_seconds(), time.process_time() + 0.5
    while time.process_time() < until:
        pass
    later = measure.busy_seconds()
    assert busy is not None
    assert later is not None
    assert later - busy >= 0.4
    assert measure.own_seconds() - own >= 0.45


def test_own_work_is_not_foreign_load(monkeypatch: pytest.MonkeyPatch):
    moments = iter([0.0, 10.0, 0.0, 10.0])
    monkeypatch.setattr(measure, "time", SimpleNamespace(monotonic=lambda: next(moments)))
    for busy, own, foreign in ((14.0, 9.0, 0.5), (9.0, 9.0, 0.0)):
        used = iter([(100.0, 1.0), (100.0 + busy, 1.0 + own)])
        now: list[tuple[float, float]] = []
        monkeypatch.setattr(measure, "busy_seconds", lambda: (now.append(next(used)), now[-1][0])[1])  # noqa: B023
        monkeypatch.setattr(measure, "own_seconds", lambda: now[-1][1])  # noqa: B023
        assert Watch().load() == Load(pytest.approx(foreign), 10.0)


def test_a_loud_machine_is_a_warning():
    assert "warning" in Load(0.21, 5.0).text
    assert Load(0.05, 5.0).text == "other processes used 0.05 cores during 5 s"
    assert "not known" in Load(None, 5.0).text
    assert together([Load(1.0, 1.0), Load(0.0, 3.0)]) == Load(0.25, 4.0)
    assert together([Load(1.0, 1.0), Load(None, 3.0)]).foreign is None


def test_the_difference_is_relative_to_the_tensor_but_not_to_a_negligible_one():
    exact = {"large": np.array([100.0, 1.0]), "small": np.array([1.0]), "nothing": np.zeros(2)}
    assert difference(exact, exact) == 0
    assert difference(exact | {"large": np.array([100.0, 1.1])}, exact) == pytest.approx(1e-3)
    assert difference(exact | {"small": np.array([1.1])}, exact) == pytest.approx(0.1)
    assert difference(exact | {"nothing": np.array([0.0, 1e-3])}, exact) == pytest.approx(1e-2)
    assert difference(exact | {"small": np.array([math.nan])}, exact) == math.inf
    with pytest.raises(Disagreement, match=r"do not compute the same things: \['small'\]"):
        difference({"large": exact["large"], "nothing": exact["nothing"]}, exact)
    with pytest.raises(Disagreement, match=r"mhc native: relative difference 1.0e-01, allowed is 1e-05"):
        agree("mhc native", exact | {"small": np.array([1.1])}, exact, 1e-5)
    with pytest.raises(Disagreement, match=r"relative difference inf"):
        agree("mhc native", exact | {"small": np.array([math.inf])}, exact, 1e-5)


def test_linear_growth_with_depth_and_what_is_not():
    depths = [12, 24, 48, 96, 192]
    assert departure(depths, [3 + 2 * depth for depth in depths]) == pytest.approx(0, abs=1e-12)
    assert departure(depths, [3 + 2 * depth for depth in depths[:-1]] + [1.2 * 387]) > 0.04
    assert departure(depths, [depth**2 for depth in depths]) > 0.3


def test_a_column_that_no_row_has_is_not_there_and_a_missing_cell_is_empty():
    rows = [{"wiring": "mhc", "ms": 0.1234, "difference": None}, {"wiring": "hc", "ms": 1234.5, "difference": 1.5e-7}]
    assert table(rows).splitlines() == [
        "| wiring | difference | ms |",
        "| --- | ---: | ---: |",
        "| mhc |  | 0.123 |",
        "| hc | 1e-07 | 1234 |",
    ]
    assert cell("depth", 192) == "192"
    assert cell("ratio", 1.345) == "1.34"


def test_a_child_that_fails_says_why():
    with pytest.raises(ChildFailed, match=r"ended with exit code 1: .*variant"):
        measured("mhc_exp.benchmarks.peak", ["variant=mhc", "variant.mix.iterations=0"])
