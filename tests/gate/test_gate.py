"""The gate: what every wiring in conf/variant has to pass on every backend. `python tests/gate/table.py` prints it.

Checks that need more than one wiring at a time, or that existed before, are tests of tests/parity and tests/unit with
the same marker `gate`.
"""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from gate_cases import cases, scores

from mhc_exp.body.flops import forward_flops_per_token
from mhc_exp.body.parameters import body_table
from mhc_exp.config.variants import Sparse, Streams
from mhc_exp.topology import families, reference
from mhc_exp.topology.charts import CHARTS
from mhc_exp.topology.gains import composite_gains
from mhc_exp.topology.reference.sparse import clamp

every_wiring = pytest.mark.parametrize("wiring", cases.GATED)
both_backends = pytest.mark.parametrize("backend", cases.TRAINERS)


def perturbed(wiring, backend, *options):
    """A trainer off every symmetry."""
    config = cases.tiny([*cases.WIRINGS[wiring], *options])
    return cases.with_weights(cases.TRAINERS[backend](config), cases.perturbed(config))


@pytest.mark.gate("shape")
@both_backends
@every_wiring
def test_scores_have_their_shape_for_any_batch_and_length(wiring, backend):
    trainer = perturbed(wiring, backend)
    for batch, time in ((1, 1), (3, 5)):
        found = scores(trainer, np.zeros((batch, time), np.int32))
        assert found.shape == (batch, time, cases.VOCABULARY)
        assert np.isfinite(found).all()


@pytest.mark.gate("causality")
@both_backends
@every_wiring
def test_a_token_changes_nothing_before_it_and_something_after(wiring, backend):
    trainer, tokens = perturbed(wiring, backend), cases.batch().inputs
    changed = tokens.copy()
    changed[:, 3] = (changed[:, 3] + 1) % cases.VOCABULARY
    before, after = scores(trainer, tokens), scores(trainer, changed)
    np.testing.assert_allclose(after[:, :3], before[:, :3], atol=1e-6)
    assert (np.abs(after[:, 3:] - before[:, 3:]).max(axis=-1) > 1e-6).any(axis=0).all()


@pytest.mark.gate("sequences")
@both_backends
@every_wiring
def test_sequences_of_a_batch_do_not_see_each_other(wiring, backend):
    trainer, tokens = perturbed(wiring, backend), cases.batch().inputs
    together = scores(trainer, tokens)
    np.testing.assert_allclose(scores(trainer, tokens[2:3]), together[2:3], atol=1e-5)


def trained(trainer, steps):
    for step in steps:
        trainer.step(step, cases.batch(step), 1e-2)
    return [result.loss for result in trainer.fetch()]


@pytest.mark.gate("determinism")
@both_backends
@every_wiring
def test_the_same_run_twice_has_the_same_bits(wiring, backend):
    first, second = (cases.TRAINERS[backend](cases.tiny(cases.WIRINGS[wiring])) for _ in range(2))
    assert trained(first, range(1, 4)) == trained(second, range(1, 4))
    one, other = first.state().model, second.state().model
    assert all((one[name] == other[name]).all() for name in one)


@pytest.mark.gate("round trip")
@both_backends
@every_wiring
def test_a_loaded_state_continues_bit_for_bit(wiring, backend):
    config = cases.tiny(cases.WIRINGS[wiring])
    straight, stopped, resumed = (cases.TRAINERS[backend](config) for _ in range(3))
    expected = trained(straight, range(1, 5))
    trained(stopped, range(1, 3))
    resumed.load(stopped.state())
    assert trained(resumed, range(3, 5)) == expected[2:]


@pytest.mark.gate("other backend")
@every_wiring
def test_a_state_of_one_backend_continues_on_the_other(wiring):
    config = cases.tiny(cases.WIRINGS[wiring])
    torch, mlx = cases.torch_trainer(config), cases.mlx_trainer(config)
    trained(torch, range(1, 3))
    mlx.load(torch.state())
    assert trained(mlx, range(3, 5)) == pytest.approx(trained(torch, range(3, 5)), abs=1e-5)


@pytest.mark.gate("budget")
@every_wiring
def test_the_body_costs_the_same_under_every_wiring(wiring):
    """The same parameters, and the same FLOPs but for the blocks that it calls again."""
    size = [word for word in cases.WIRINGS[wiring] if word.startswith("model.")]

    def body(*overrides):
        config = cases.tiny([*overrides, *size])
        own = families.flops_per_token(config.variant, config.model.width, config.depth)
        shapes = {name: entry.shape for name, entry in body_table(config, cases.VOCABULARY).items()}
        return shapes, forward_flops_per_token(config, cases.VOCABULARY) - own

    names = cases.WIRINGS[wiring]
    variant = cases.tiny(names).variant
    for depth in (2, 5):
        shapes, flops = body(*names, f"depth={depth}")
        assert shapes == body("variant=baseline", f"depth={depth}")[0]
        calls = sum(families.passes(variant, depth))
        assert flops == pytest.approx(body("variant=baseline", f"depth={calls}")[1])


@pytest.mark.gate("passes")
@both_backends
@every_wiring
def test_every_block_is_called_as_often_as_is_stated(wiring, backend, monkeypatch):
    config = cases.tiny([*cases.WIRINGS[wiring], "depth=5"])
    trainer, calls = cases.TRAINERS[backend](config), []
    model = importlib.import_module(f"mhc_exp.{backend}.model")

    def counted(method):
        def call(self, *inputs):
            calls.append(id(self))
            return method(self, *inputs)

        return call

    monkeypatch.setattr(model.Attention, "attend", counted(model.Attention.attend))
    monkeypatch.setattr(model.MLP, "inner", counted(model.MLP.inner))
    scores(trainer, cases.batch().inputs)
    stated = families.passes(config.variant, config.depth)
    assert len(stated) == 5
    for name in ("attention", "mlp"):
        assert [calls.count(id(getattr(block, name))) for block in trainer.model.blocks] == stated


def doubly_stochastic(wiring):
    """The variant, if it claims doubly stochastic mixing; skips the test otherwise."""
    variant = cases.tiny(cases.WIRINGS[wiring]).variant
    if not isinstance(variant, Streams | Sparse) or not CHARTS[variant.mix.chart].doubly_stochastic:
        pytest.skip("not claimed")
    return variant


def exact_axes(variant):
    """Axes of H_res as applied over which its sums are exact: both, or the one that Sinkhorn normalises last; none if
    rows are clamped after that.
    """
    if isinstance(variant, Sparse) and variant.clamp:
        return ()
    if variant.mix.chart != "sinkhorn":
        return (-1, -2)
    rows_last, transposed = variant.mix.order == "rows_last", variant.mix.apply == "transposed"
    return (-1,) if rows_last != transposed else (-2,)


def mixings(trainer, tokens):
    """H_res as applied, [connections, N, S, S]; N = 1 if it is the same for every token."""
    found = []

    def observe(coefficients, streams):
        identity = np.eye(len(coefficients.read))[..., None]
        mix = identity if coefficients.mix is None else np.asarray(coefficients.mix)
        found.append(np.moveaxis(mix, -1, 0))

    scores(trainer, tokens, observe)
    return np.stack(found).astype(np.float64)


def sinkhorn_error(matrix, iterations):
    """Most that a row or column sum may differ from one after so many iterations: with Hilbert's metric, in which a
    half-iteration contracts by tanh(D / 4), D the largest log of a cross-ratio, and is at most D after the first.

    Cross-ratios are the same before and after any scaling of rows and columns, so the result tells D.
    """
    logs = np.log(matrix)
    ratios = logs[:, None, :] - logs[None, :, :]
    diameter = (ratios.max(axis=-1) - ratios.min(axis=-1)).max()
    return np.expm1(np.tanh(diameter / 4) ** (2 * iterations - 2) * diameter)


def mixed_part(matrix):
    """The part of H_res [S, S] that is not the identity of streams that are left alone."""
    mixed = (matrix > 0).sum(axis=-1) > 1
    return matrix[np.ix_(mixed, mixed)]


@pytest.mark.gate("constraint")
@both_backends
@every_wiring
def test_mixing_is_doubly_stochastic_where_claimed(wiring, backend):
    """Exact axes to rounding, the other one to Sinkhorn's truncation; clamped sums are at most one and fall short of
    one by no more than the truncation.
    """
    variant = doubly_stochastic(wiring)
    clamped = isinstance(variant, Sparse) and variant.clamp
    for matrix in np.concatenate(mixings(perturbed(wiring, backend), cases.batch().inputs)):
        assert matrix.min() >= 0
        for axis in (-1, -2):
            error, exact = matrix.sum(axis=axis) - 1, axis in exact_axes(variant)
            allowed = 1e-5 + (0 if exact else sinkhorn_error(mixed_part(matrix), variant.mix.iterations))
            assert np.abs(error).max() <= allowed
            assert not clamped or error.max() <= 1e-5


@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_the_stated_error_of_sinkhorn_is_an_upper_bound_and_falls_with_iterations(spread):
    logits = np.random.default_rng(0).normal(scale=spread, size=(200, 4, 4))
    for iterations in (2, 5, 20):
        found = reference.sinkhorn(logits, iterations, "columns_last")
        stated = np.array([sinkhorn_error(matrix, iterations) for matrix in found])
        error = np.abs(found.sum(axis=-1) - 1).max(axis=-1)
        assert (error <= stated + 1e-12).all()
        short = 1 - clamp(found).sum(axis=-2)
        assert (short.max(axis=-1) <= error + 1e-12).all()
    assert np.median(stated) < 1e-3 or spread == 2.0


@pytest.mark.gate("gain")
@every_wiring
def test_two_hundred_doubly_stochastic_mixings_amplify_nothing(wiring):
    variant = doubly_stochastic(wiring)
    mixed = variant.active if isinstance(variant, Sparse) else variant.streams
    count = CHARTS[variant.mix.chart].logits(mixed, variant.mix.expansion)
    logits = np.random.default_rng(0).normal(scale=2.0, size=(200, 5, count))
    mix = np.array(reference.chart(logits, mixed, variant.mix))
    if variant.mix.apply == "transposed":
        mix = np.swapaxes(mix, -1, -2)
    clamped = isinstance(variant, Sparse) and variant.clamp
    forward, backward, _ = composite_gains(clamp(mix) if clamped else mix)
    for axis in (-1,) if clamped else exact_axes(variant):
        assert (forward if axis == -1 else backward).max() <= 1 + 1e-9
