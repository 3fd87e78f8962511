"""numpy = torch = MLX for every wiring and every body option: loss and the gradient of every parameter."""

from __future__ import annotations

import cases
import numpy as np
import pytest

from mhc_exp.body import reference
from mhc_exp.config.variants import Looped
from mhc_exp.topology import families
from mhc_exp.topology import reference as topology
from mhc_exp.topology.layout import mixing_share
from mhc_exp.topology.looped import middle
from mhc_exp.topology.reference.arithmetic import with_residuals

CASES = cases.WIRINGS | {f"mhc, {name}": ["variant=mhc", *options] for name, options in cases.BODIES.items()}


@pytest.fixture(params=CASES, ids=str)
def problem(request):
    """(config, float32 weights, batch) of one wiring or body."""
    config = cases.tiny(CASES[request.param])
    return config, cases.perturbed(config), cases.batch()


def in_double(config, values):
    return cases.to_double(cases.with_weights(cases.torch_trainer(config), values))


def reference_loss(config, values, batch):
    return reference.loss({name: value.astype(np.float64) for name, value in values.items()}, config, batch)


@pytest.mark.gate("loss")
@pytest.mark.parametrize("backend", cases.TRAINERS)
def test_loss_equals_the_numpy_reference(problem, backend):
    config, values, batch = problem
    trainer = cases.with_weights(cases.TRAINERS[backend](config), values)
    assert trainer.evaluate([batch]).loss == pytest.approx(reference_loss(config, values, batch), rel=1e-5)


@pytest.mark.gate("gradient (float64)")
def test_gradient_in_double_equals_finite_differences_of_the_reference(problem):
    config, values, batch = problem
    gradients = in_double(config, values).gradients(batch)
    exact = {name: value.astype(np.float64) for name, value in values.items()}
    total = np.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
    random, step = np.random.default_rng(2), 2e-6
    for name, gradient in gradients.items():
        direction = random.normal(size=gradient.shape)
        direction /= np.linalg.norm(direction)
        ahead = reference.loss(exact | {name: exact[name] + step * direction}, config, batch)
        behind = reference.loss(exact | {name: exact[name] - step * direction}, config, batch)
        difference = (ahead - behind) / (2 * step) - (gradient * direction).sum()
        assert abs(difference) <= 1e-6 * np.linalg.norm(gradient) + 1e-9 * total, name


@pytest.mark.gate("gradient (float32)")
@pytest.mark.parametrize("backend", cases.TRAINERS)
def test_gradient_in_single_precision_equals_double(problem, backend):
    config, values, batch = problem
    exact = in_double(config, values).gradients(batch)
    single = cases.with_weights(cases.TRAINERS[backend](config), values).gradients(batch)
    total = np.sqrt(sum((gradient**2).sum() for gradient in exact.values()))
    assert single.keys() == exact.keys()
    for name, gradient in exact.items():
        error = np.abs(single[name] - gradient).max()
        assert error <= 1e-4 * np.linalg.norm(gradient) + 1e-7 * total, name


@pytest.mark.parametrize("backend", cases.TRAINERS)
def test_diagnosed_coefficients_equal_the_numpy_reference(problem, backend):
    config, values, batch = problem
    trainer = cases.with_weights(cases.TRAINERS[backend](config), values)
    diagnosis = trainer.diagnose(batch)
    streams = families.streams_of(config.variant)
    if streams is None:
        assert (diagnosis is None) == (families.reads(config.variant, config.depth) is None)
        return
    own_connection = families.connection(config.variant)
    if own_connection is None:
        sublayers = 2 * config.depth
        assert diagnosis.read.shape == diagnosis.write.shape == (sublayers, *diagnosis.read.shape[1:-1], streams)
        return
    exact = {name: value.astype(np.float64) for name, value in values.items()}
    x = exact["embed.weight"][batch.inputs]
    if "positions.weight" in exact:
        x = x + exact["positions.weight"][: batch.inputs.shape[1]]
    if isinstance(config.variant, Looped):
        x = with_residuals(reference.sublayers(exact, config)[: 2 * middle(config.variant, config.depth)[0]])(x)
    x = np.repeat(x[..., None, :], streams, axis=-2) * exact.get("topology.expand.weight", 1.0)
    prefix = "topology.connections.0."
    own = {name[len(prefix) :]: value for name, value in exact.items() if name.startswith(prefix)}
    assert len(diagnosis.read) == len(families.wrapped(config.variant, config.depth))
    share = mixing_share(own_connection.mix, len(diagnosis.read))
    read, write, mix = topology.coefficients(x, own, own_connection, share)
    if own_connection.read_from == "previous":
        read = np.eye(streams)[0]
    pairs = [
        (diagnosis.read[0], read.reshape(-1, streams)),
        (diagnosis.write[0], write.reshape(-1, streams)),
        (diagnosis.mix[0], mix.reshape(-1, streams, streams)),
    ]
    for found, expected in pairs:
        np.testing.assert_allclose(*np.broadcast_arrays(found, expected), atol=1e-5)


@pytest.mark.parametrize("backend", cases.TRAINERS)
def test_sinkhorn_survives_logits_that_underflow(backend):
    """exp(-110) is zero in float32, and so is a whole column of it: only logarithms know what it was."""
    config = cases.tiny(["variant=mhc", "variant.coefficients=static"])
    values = cases.perturbed(config)
    bias = np.zeros(24, np.float32)
    bias[8] = 110.0
    values["topology.connections.0.bias"] = bias
    diagnosis = cases.with_weights(cases.TRAINERS[backend](config), values).diagnose(cases.batch())
    expected = topology.chart(bias[None, 8:].astype(np.float64), 4, config.variant.mix)
    np.testing.assert_allclose(diagnosis.mix[0], expected, atol=1e-5)
