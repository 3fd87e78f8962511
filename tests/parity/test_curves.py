"""Training curves of both backends from the same weights on the same batches."""

from __future__ import annotations

import cases
import numpy as np
import pytest

STEPS = 20
TOLERANCE = 1e-4


def curve(trainer, steps=range(1, STEPS + 1), lr=1e-2):
    for step in steps:
        trainer.step(step, cases.batch(step), lr * step / STEPS)
    return np.array([[result.loss, result.grad_norm] for result in trainer.fetch()])


@pytest.mark.fault(row=23)
@pytest.mark.gate("curves")
@pytest.mark.parametrize("wiring", cases.WIRINGS)
def test_both_backends_draw_the_same_curve(wiring):
    config = cases.tiny([*cases.WIRINGS[wiring], "optimizer.weight_decay=0.3", "optimizer.clip=0.5"])
    first, second = curve(cases.torch_trainer(config)), curve(cases.mlx_trainer(config))
    assert len(first) == STEPS
    assert np.abs(first[:, 0] - second[:, 0]).max() <= TOLERANCE


def test_accumulation_and_connection_learning_rate_mean_the_same_on_both_backends():
    options = ["variant=mhc", "training.accumulation=2", "training.batch_size=4",
               "optimizer.connection_lr_multiplier=3.0", "optimizer.decay_connections=true"]  # fmt: skip
    config = cases.tiny(options)
    assert np.abs(curve(cases.torch_trainer(config)) - curve(cases.mlx_trainer(config))).max() <= TOLERANCE


@pytest.mark.parametrize("backend", cases.TRAINERS)
def test_accumulation_does_not_change_the_gradient(backend):
    whole = cases.TRAINERS[backend](cases.tiny(["variant=mhc"])).gradients(cases.batch())
    parts = cases.TRAINERS[backend](cases.tiny(["variant=mhc", "training.accumulation=4"])).gradients(cases.batch())
    for name, gradient in whole.items():
        np.testing.assert_allclose(parts[name], gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.fault(row=23, mutation=True)
def test_mlx_without_bias_correction_would_be_noticed():
    """The parity test can fail: MLX's default Adam breaks it."""
    config = cases.tiny(["variant=mhc"])
    trainer = cases.mlx_trainer(config)
    for optimizer in trainer.optimizers:
        optimizer.bias_correction = False
    difference = np.abs(curve(cases.torch_trainer(config)) - curve(trainer))[:, 0]
    assert difference.max() > 10 * TOLERANCE


@pytest.mark.fault(row=23, mutation=True)
def test_a_wrong_norm_eps_would_be_noticed():
    config = cases.tiny(["variant=mhc"])
    other = cases.tiny(["variant=mhc", "model.norm_eps=1e-2"])
    difference = np.abs(curve(cases.torch_trainer(config)) - curve(cases.mlx_trainer(other)))[:, 0]
    assert difference.max() > TOLERANCE


@pytest.mark.parametrize("wiring", ["baseline", "hc", "mhc", "deepseek_v4"])
def test_training_hands_over_from_torch_to_mlx_and_back(wiring):
    config = cases.tiny(cases.WIRINGS[wiring])
    alone = curve(cases.torch_trainer(config))[:, 0]
    torch, mlx = cases.torch_trainer(config), cases.mlx_trainer(config)
    start = curve(torch, range(1, 8))
    mlx.load(torch.state())
    middle = curve(mlx, range(8, 15))
    torch.load(mlx.state())
    end = curve(torch, range(15, STEPS + 1))
    assert np.abs(np.concatenate([start, middle, end])[:, 0] - alone).max() <= TOLERANCE


@pytest.mark.fault(row=20)
@pytest.mark.parametrize("backend", cases.TRAINERS)
@pytest.mark.parametrize("options", [["variant=mhc"], ["variant=hc", "training.accumulation=2"], ["model.dropout=0.2"]])
@pytest.mark.parametrize("stop", [1, 2, 10, 19])
def test_resume_is_bit_exact(backend, options, stop):
    """Losses of all later steps, weights and optimizer state, compared with ==."""
    config = cases.tiny(options)
    straight = cases.TRAINERS[backend](config)
    expected = curve(straight)
    stopped = cases.TRAINERS[backend](config)
    curve(stopped, range(1, stop + 1))
    resumed = cases.TRAINERS[backend](config)
    resumed.load(stopped.state())
    found = curve(resumed, range(stop + 1, STEPS + 1))
    assert (found == expected[stop:]).all()
    for one, other in (
        (straight.state().model, resumed.state().model),
        (straight.state().optimizer, resumed.state().optimizer),
    ):
        assert one.keys() == other.keys()
        assert all((one[name] == other[name]).all() for name in one)


@pytest.mark.fault(row=20, mutation=True)
@pytest.mark.parametrize("forgotten", ["step", "exp_avg.", "exp_avg_sq."])
def test_a_resume_that_forgets_optimizer_state_would_be_noticed(forgotten):
    config = cases.tiny(["variant=mhc"])
    trainer = cases.torch_trainer(config)
    expected = curve(trainer)
    stopped = cases.torch_trainer(config)
    curve(stopped, range(1, 11))
    state = stopped.state()
    for name in state.optimizer:
        if name.startswith(forgotten):
            state.optimizer[name] = np.zeros_like(state.optimizer[name])
    resumed = cases.torch_trainer(config)
    resumed.load(state)
    assert (curve(resumed, range(11, STEPS + 1)) != expected[10:]).any()


@pytest.mark.parametrize("backend", cases.TRAINERS)
@pytest.mark.parametrize("policy", ["stop", "skip_step", "continue"])
def test_what_a_non_finite_step_does(backend, policy):
    config = cases.tiny(["variant=mhc", f"training.nonfinite={policy}"])
    trainer = cases.TRAINERS[backend](config)
    curve(trainer, range(1, 4))
    before = trainer.state()
    healthy = before.model["norm.weight"]
    cases.with_weights(trainer, before.model | {"norm.weight": healthy * np.nan})
    trainer.step(4, cases.batch(4), 1e-2)
    (bad,) = trainer.fetch()
    cases.with_weights(trainer, trainer.state().model | {"norm.weight": healthy})
    after = trainer.state()
    weights_kept = all((before.model[name] == after.model[name]).all() for name in before.model)
    moments = before.optimizer.keys() - {"stopped"}
    moments_kept = all((before.optimizer[name] == after.optimizer[name]).all() for name in moments)
    assert not np.isfinite(bad.loss)
    assert bad.applied == (policy == "continue")
    assert (weights_kept and moments_kept) == (policy != "continue")
    if policy != "continue":
        trainer.step(5, cases.batch(5), 1e-2)
        (next_one,) = trainer.fetch()
        assert np.isfinite(next_one.loss)
        assert next_one.applied == (policy == "skip_step"), "policy stop is sticky"
