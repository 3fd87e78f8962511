"""Row 9: SIGTERM and SIGINT in the middle of everything a run does: one step more, saved, and resumed bit for bit."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from laboratory import STEPS, Laboratory, configured

from mhc_exp.config.compose import compose
from mhc_exp.config.schema import Config
from mhc_exp.training.signals import StopRequest

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # os.fork on Python 3.12
SIGNALS = (signal.SIGTERM, signal.SIGINT)
HOOKS = ("data", "step", "evaluation", "diagnosis", "checkpoint", "tracker")
AT = 7
"""Call of the hook at which the signal comes."""


@pytest.fixture(scope="module")
def composed() -> Config:
    return compose(["backend=cpu", "tracking=local", "training=smoke", "dataset=increment", "depth=1"])


def hook(lab: Laboratory, place: str, act: Callable[[], Any]) -> None:
    """Call `act` inside the AT-th call (the second for what is rare) of a part of the run."""
    owner, name, at = {
        "data": (lab.task, "batch", AT),
        "step": (lab.trainer, "step", AT),
        "evaluation": (lab.trainer, "evaluate", 3),
        "diagnosis": (lab.trainer, "diagnose", 3),
        "checkpoint": (lab.run.checkpoints, "before_commit", 2),
        "tracker": (lab.sinks, "log", AT),
    }[place]
    original, calls = getattr(owner, name), 0

    def struck(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            act()
        return original(*arguments, **named)

    setattr(owner, name, struck)


def stopped(lab: Laboratory, place: str, number: int) -> list[str]:
    """What is wrong after signal `number` came in `place`; handlers are as in a worker."""
    reached: list[int] = []

    def act() -> None:
        reached.append(len(lab.trainer.history))
        os.kill(os.getpid(), number)

    hook(lab, place, act)
    try:
        with lab.stop:
            outcome = lab.train()
    except KeyboardInterrupt:
        return ["the signal was an exception in the middle of it"]
    wrong = [] if (outcome.state, outcome.signal) == ("interrupted", number) else [f"{outcome.state}, {outcome.signal}"]
    if not reached or outcome.step > reached[0] + 1:
        wrong.append(f"it went on from step {reached} to {outcome.step}")
    if outcome.step not in lab.saved():
        wrong.append(f"step {outcome.step} is lost, saved are {lab.saved()}")
    return wrong


def resumed(lab: Laboratory, straight: Laboratory) -> list[str]:
    """What differs from a run that nobody disturbed."""
    lab.again()
    outcome = lab.train()
    wrong = [] if (outcome.state, outcome.step) == ("done", STEPS) else [f"resumed: {outcome.state} at {outcome.step}"]
    same = lab.arrays()["table"].tobytes() == straight.arrays()["table"].tobytes()
    return wrong + ([] if same else ["the weights differ"])


@pytest.mark.fault(row=9)
@pytest.mark.parametrize("number", SIGNALS, ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("place", HOOKS)
def test_a_signal_costs_one_step_and_nothing_else(composed: Config, tmp_path: Path, place: str, number: int) -> None:
    straight = Laboratory(configured(composed, tmp_path / "straight"))
    straight.train()
    lab = Laboratory(configured(composed, tmp_path / "struck"))
    assert stopped(lab, place, number) == []
    assert resumed(lab, straight) == []


@pytest.mark.fault(row=9)
@pytest.mark.parametrize("number", SIGNALS, ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("place", HOOKS)
def test_the_second_signal_ends_the_process_at_once(composed: Config, tmp_path: Path, place: str, number: int) -> None:
    lab = Laboratory(configured(composed, tmp_path))
    child = os.fork()
    if child == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        hook(lab, place, lambda: [os.kill(os.getpid(), number) for _ in range(2)])
        with lab.stop:
            lab.train()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + number


@pytest.mark.fault(row=9, mutation=True)
def test_without_a_handler_the_step_would_be_lost(composed: Config, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(StopRequest, "__enter__", lambda self: self)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        for number in SIGNALS:
            lab = Laboratory(configured(composed, tmp_path / str(number)))
            assert stopped(lab, "step", number)
    finally:
        signal.signal(signal.SIGTERM, before)
