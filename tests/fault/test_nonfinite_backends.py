"""Row 11: NaN and Inf in the loss or in one element of one gradient or activation, on the real trainers, under every
policy.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bigram import VOCABULARY
from laboratory import STEPS, Laboratory, configured

from mhc_exp.config.compose import compose
from mhc_exp.config.machine import PACKAGES, installed
from mhc_exp.config.schema import Config
from mhc_exp.training.backends import make_trainer
from mhc_exp.training.trainer import State

BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(not installed(PACKAGES[name]), reason=f"{name} is not installed"))
    for name in ("cpu", "mlx")
]
WHERE = ["loss", "gradient", "activation"]
WORDS = ("tracking=local", "training=smoke", "dataset=increment", "depth=1", "variant=mhc", "backend.threads=1")
SIZE = ("model.width=8", "model.heads=2", "model.seq_len=4", "training.batch_size=2", "variant.streams=2")


def laboratory(backend: str, root: Path, policy: str) -> Laboratory:
    """A run of a real trainer on the counting task."""
    config: Config = configured(compose([f"backend={backend}", *WORDS, *SIZE]), root)
    config = replace(config, training=replace(config.training, nonfinite=policy))
    lab = Laboratory(config)
    lab.trainer = make_trainer(config, VOCABULARY)  # type: ignore[assignment]
    return lab


def poison(trainer: Any, where: str, step: int, bad: float) -> list[State]:
    """Add `bad` to the loss, to one element of one gradient, or to one of what the first MLP gives, in update `step`;
    the states before and after it.
    """
    accumulate, enqueue, states = trainer._accumulate, trainer.step, []
    trainer.now = 0

    def poisoned(batch: Any) -> Any:
        loss, gradients = accumulate(batch)
        if trainer.now == step and where == "loss":
            loss = loss + bad
        if trainer.now == step and where == "gradient":
            name = sorted(gradients)[0]
            gradients = {**gradients, name: gradients[name] + spot(trainer, gradients[name].shape, bad)}
        return loss, gradients

    def step_of(number: int, batch: Any, lr: float) -> None:
        trainer.now = number
        if number == step:
            states.append(trainer.state())
        enqueue(number, batch, lr)
        if number == step:
            states.append(trainer.state())
        trainer.now = 0  # an evaluation is no update

    trainer.step, trainer._accumulate = step_of, poisoned
    if where == "activation":
        mlp = trainer.model.blocks[0].mlp
        mlp.__class__ = poisoned_class(trainer, type(mlp), step, bad)
    return states


def poisoned_class(trainer: Any, base: Any, step: int, bad: float) -> Any:
    """The class of an MLP whose output is spoiled in update `step`."""
    method = "forward" if hasattr(base, "forward") else "__call__"

    def spoiled(self: Any, x: Any) -> Any:
        y = getattr(base, method)(self, x)
        return y + spot(trainer, y.shape, bad) if trainer.now == step else y

    return type(base.__name__, (base,), {method: spoiled})


def spot(trainer: Any, shape: Any, bad: float) -> Any:
    """Zeros but for the first element."""
    array = np.zeros(tuple(shape), np.float32)
    array.flat[0] = bad
    return type_of(trainer, array)


def type_of(trainer: Any, array: np.ndarray) -> Any:
    if hasattr(trainer, "_tensor"):
        return trainer._tensor(array)
    import mlx.core as mx

    return mx.array(array)


def broken(lab: Laboratory, where: str, step: int, bad: float) -> list[str]:
    """Promises that do not hold."""
    states = poison(lab.trainer, where, step, bad)
    policy = lab.config.training.nonfinite
    with np.errstate(invalid="ignore"):
        outcome = lab.train()
    wrong = []
    if policy != "continue" and not equal(*states):
        wrong.append("the bad update changed something")
    expected = ("done", STEPS) if policy == "skip_step" else ("diverged", step)
    if (outcome.state, outcome.step) != expected:
        wrong.append(f"{outcome.state} at {outcome.step}")
    if max(lab.rows()) != (STEPS if policy != "stop" else step):
        wrong.append(f"rows end at {max(lab.rows())}")
    if lab.rows()[max(lab.rows())]["train/nonfinite_total"] < 1 or lab.run.status()["state"] != outcome.state:
        wrong.append("the tables do not know")
    for saved in lab.saved():
        state = lab.run.checkpoints.read(saved).state
        if not all(np.isfinite(array).all() for part in (state.model, state.optimizer) for array in part.values()):
            wrong.append(f"the checkpoint of step {saved} is not finite")
    return wrong


def equal(before: State, after: State) -> bool:
    """Parameters and optimizer state, bit for bit; the flag of policy `stop` may change."""
    pairs = [(one, other) for one, other in ((before.model, after.model), (before.optimizer, after.optimizer))]
    return all(
        np.asarray(one[name]).tobytes() == np.asarray(other[name]).tobytes()
        for one, other in pairs
        for name in one
        if "stopped" not in name
    )


@pytest.mark.fault(row=11)
@pytest.mark.parametrize(
    ("policy", "where"),
    [*((policy, where) for policy in ("stop", "skip_step") for where in WHERE), ("continue", "gradient")],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_number_that_is_not_finite_harms_nothing_that_is_kept(
    tmp_path: Path, backend: str, policy: str, where: str, record_property
) -> None:
    steps = [(1, math.nan), (9, math.inf)] if policy != "continue" else [(9, math.nan)]
    record_property("trials", len(steps))
    for step, bad in steps:
        assert broken(laboratory(backend, tmp_path / f"{step}", policy), where, step, bad) == []


@pytest.mark.fault(row=11, mutation=True)
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_update_that_nobody_blocks_poisons_every_parameter(tmp_path: Path, backend: str) -> None:
    lab = laboratory(backend, tmp_path, "skip_step")
    lab.trainer._blocked = lambda bad: bad * 0.0 if backend == "mlx" else bad.float() * 0.0  # type: ignore[attr-defined]
    assert "the bad update changed something" in broken(lab, "gradient", 9, math.nan)
