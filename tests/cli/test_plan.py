"""`mhc-exp plan`: numbers for any machine, without a run, an allocation or a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from door import Door

from mhc_exp.config.compose import compose
from mhc_exp.planning import traffic
from mhc_exp.planning.error import ARMS, SHAPES
from mhc_exp.planning.machines import MACHINES, Each, Machine
from mhc_exp.planning.roofline import predict
from mhc_exp.torch.roofs import measured

LARGE = [
    *("variant=mhc", "depth=30", "model.width=2560", "model.heads=20", "model.seq_len=4096", "backend.dtype=bfloat16"),
    *("training.batch_size=8", "model.norm=rmsnorm", "model.activation=swiglu", "model.positions=rotary"),
]
"""Depth, width and length of the mHC paper's 27B setting, with a dense body."""
UNIT = Machine("unit", 1e12, 1e13, 1e11, 1e9, 1e-6, "made up")


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Door:
    monkeypatch.chdir(tmp_path)
    return Door(tmp_path, monkeypatch, capfd)


def test_the_papers_27b_setting_is_planned_without_memory_for_it(door: Door) -> None:
    said = door("plan", *LARGE, "--machine", "h100")
    assert (said.code, said.err) == (0, "")
    for part in (
        "body 2,362,785,600, connections 14,747,220",
        "35,840 = 14.0 C",
        "87,088 = 34.0 C",
        "25,600 = 10.0 C",
        "block of 6 of 60 (L_r*)",
        "training.recompute=auto on h100: blocks of 6 of 60",
        "predicted step on h100",
        "single pass",
    ):
        assert part in said.out
    assert door.left_behind() == []


@pytest.mark.parametrize(
    ("variant", "part"),
    [
        ("baseline", "plain"),
        ("hyperloop", "cannot"),
        ("xhc", "no model of the family sparse"),
        ("attnres", "rough guess"),
    ],
)
def test_every_family_has_a_plan(door: Door, variant: str, part: str) -> None:
    said = door("plan", f"variant={variant}", "--machine", "l4")
    assert (said.code, said.err) == (0, "")
    assert part in said.out


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["dept=3"], "did you mean 'depth'"),
        (["model.heads=3"], "not divisible by model.heads=3"),
        (["variant=xhc", "training.recompute=block"], "type training.recompute=auto"),
        (["depth=0"], "must be at least 1"),
    ],
)
def test_what_could_run_nowhere_is_refused(door: Door, words: list[str], part: str) -> None:
    said = door("plan", *words, "--machine", "h100")
    assert (said.code, said.out) == (2, "")
    assert part in said.err


def test_an_unknown_machine_is_refused_with_the_names_of_the_others(door: Door) -> None:
    said = door("plan", "--machine", "h1000")
    assert said.code == 2
    assert all(name in said.err for name in ("measured", *MACHINES))


def test_this_machine_is_measured(door: Door) -> None:
    said = door("plan", "depth=2", "backend=cpu")
    assert (said.code, said.err) == (0, "")
    assert "predicted step on measured (this CPU, 1 threads" in said.out


def test_fused_connections_move_what_the_papers_say() -> None:
    assert traffic.unfused(4, 100).forward == 3400 + 48
    assert traffic.fused(4, 100).forward == 1400
    assert traffic.single_pass(4, 100).forward == 1000
    assert traffic.plain(100).forward == 300


def test_a_step_takes_longer_the_more_its_connections_move_and_again_with_recomputation() -> None:
    config = compose(["variant=mhc", "backend=cpu"])
    steps = [predict(config, 256, UNIT, way) for way in ("single_pass", "fused", "eager")]
    assert steps[0].step < steps[1].step < steps[2].step
    again = predict(config, 256, UNIT, "fused", recompute=True)
    assert 0.2 * steps[1].step < again.step - steps[1].step < 0.4 * steps[1].step


def test_a_part_that_is_slower_here_than_its_arithmetic_says_takes_that_much_longer() -> None:
    config = compose(["variant=mhc", "backend=cpu"])
    found = predict(config, 256, UNIT, "fused", recompute=True)
    slow = {"fused": Each(2.0, 2.0), "optimizer": Each(5.0, 1.0), "body": Each(3.0, 3.0), "eager": Each(9.0, 9.0)}
    slower = predict(config, 256, dataclasses.replace(UNIT, slower=slow), "fused", recompute=True)
    assert slower.connections == pytest.approx(2 * found.connections)
    assert slower.body == pytest.approx(3 * found.body)
    assert slower.optimizer == pytest.approx(5 * found.optimizer)
    assert 2 * found.again < slower.again < 3 * found.again


def test_this_cpu_is_slower_than_its_best_rates() -> None:
    config = compose(["variant=mhc", "backend=cpu", "model.width=32", "model.seq_len=32", "training.batch_size=4"])
    machine = measured(config)
    assert machine.slower.keys() == {"body", "eager", "fused", "optimizer"}
    assert all(time > 0 for each in machine.slower.values() for time in each)
    assert machine.slower["body"].forward > 1
    plain = measured(dataclasses.replace(config, variant=compose(["variant=baseline"]).variant))
    assert plain.slower.keys() == {"body", "optimizer"}


@pytest.mark.parametrize("rate", ["single", "bandwidth"])
def test_a_faster_machine_is_faster(rate: str) -> None:
    config = compose(["variant=mhc", "backend=cpu"])
    faster = dataclasses.replace(UNIT, **{rate: 2 * getattr(UNIT, rate)})
    assert predict(config, 256, faster, "fused").step < predict(config, 256, UNIT, "fused").step


def test_the_check_compares_each_way_of_this_projects_connections() -> None:
    assert {way for way, _, _ in ARMS.values()} == {"plain", "fused", "eager"}
    assert set(SHAPES) == {64, 256}
