"""A recorded step is the step that is not: with a recorder that stands for CUDA's, which runs the same code again.

What only a GPU shows (that everything in a step can be captured) is in tests/triton_tier/test_graphs_on_a_gpu.py.
"""

from __future__ import annotations

import dataclasses

import cases
import numpy as np
import pytest
import torch

from mhc_exp.torch import graphs

STEPS = 6


@pytest.fixture(autouse=True)
def recorder(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """In place of CUDA's: warms up, and a replay writes what the code makes of the same addresses into the result."""
    replays: list[int] = []

    def record(run):
        for _ in range(graphs.WARM_UP):
            run()
        result = run()

        def replay() -> None:
            replays.append(1)
            result.copy_(run())

        return replay, result

    monkeypatch.setattr(graphs, "record", record)
    return replays


def recorded(options: list[str]):
    config = cases.tiny(options)
    return cases.torch_trainer(dataclasses.replace(config, backend=dataclasses.replace(config.backend, graphs=True)))


def curve(trainer, steps: int = STEPS) -> np.ndarray:
    for step in range(1, steps + 1):
        trainer.step(step, cases.batch(step), 1e-2 * step / steps)
    return np.array([dataclasses.astuple(result)[1:] for result in trainer.fetch()], dtype=float)


@pytest.mark.parametrize(
    "options",
    [
        ["variant=baseline"],
        ["variant=mhc", "training.accumulation=2", "training.batch_size=4"],
        ["variant=hc", "optimizer.clip=0.1", "optimizer.connection_lr_multiplier=3.0"],
        ["variant=attnres"],
    ],
    ids=lambda options: options[0],
)
def test_the_curve_and_the_weights_are_those_of_the_step_that_is_not_recorded(options, recorder):
    alone, graph = cases.torch_trainer(cases.tiny(options)), recorded(options)
    np.testing.assert_allclose(curve(graph), curve(alone), rtol=1e-5, atol=1e-6)
    assert len(recorder) == STEPS
    expected = alone.state()
    for name, array in graph.state().model.items():
        if name.startswith("topology.") or name.endswith("qkv.bias"):
            continue  # some of their gradients are zero but for rounding, which decides Adam's sign
        np.testing.assert_allclose(array, expected.model[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert graph.state().optimizer["step"] == STEPS


def test_recording_changes_nothing():
    """Its warm-up makes updates, which are taken back."""
    trainer = recorded(["variant=mhc"])
    before = trainer.state()
    given = graphs.inputs(cases.batch(1), 1, 1e-2)
    moments = (*trainer.exp_avg.values(), *trainer.exp_avg_sq.values())
    graphs.StepGraph(
        trainer._whole_step, given, [*trainer.parameters.values(), *moments, trainer.updates, trainer.stopped]
    )
    after = trainer.state()
    assert all((after.model[name] == array).all() for name, array in before.model.items())
    assert all((after.optimizer[name] == array).all() for name, array in before.optimizer.items())


@pytest.mark.parametrize("policy", ["stop", "skip_step"])
def test_a_step_that_is_not_finite_changes_nothing(policy):
    trainer = recorded(["variant=mhc", f"training.nonfinite={policy}"])
    curve(trainer, 2)
    with torch.no_grad():
        next(iter(trainer.parameters.values())).fill_(float("nan"))
    before = trainer.state()
    trainer.step(3, cases.batch(3), 1e-2)
    after = trainer.state()
    for part in ("model", "optimizer"):
        for name, array in getattr(before, part).items():
            if name != "stopped":
                np.testing.assert_array_equal(getattr(after, part)[name], array, err_msg=name)
    assert [result.applied for result in trainer.fetch()] == [False]


def test_a_loaded_state_is_what_the_next_replay_starts_from():
    trainer, other = recorded(["variant=mhc"]), recorded(["variant=mhc"])
    curve(trainer)
    curve(other, 2)
    other.load(trainer.state())
    one, two = curve(trainer), curve(other)
    np.testing.assert_array_equal(one, two)


def test_a_batch_of_another_shape_is_refused():
    trainer = recorded(["variant=baseline"])
    trainer.step(1, cases.batch(1), 1e-2)
    batch = cases.batch(2)
    half = batch.split(2)[0]
    with pytest.raises(ValueError, match=r"fixed shapes; type backend.graphs=false"):
        trainer.step(2, half, 1e-2)
