"""The limit of Sinkhorn-Knopp by Newton's method: it is reached for any logits, and has the gradient of the limit."""

from __future__ import annotations

import dataclasses

import mlx.core as mx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mhc_exp.config.compose import compose
from mhc_exp.mlx import charts as in_mlx
from mhc_exp.topology import reference
from mhc_exp.topology.newton import steps_needed
from mhc_exp.torch import charts as in_torch

SEEDS, STREAMS = st.integers(0, 2**32 - 1), st.integers(2, 8)
MIX = dataclasses.replace(compose(["variant=mhc"]).variant.mix, solver="newton")  # type: ignore[union-attr]
ORDERS = st.sampled_from(["rows_last", "columns_last"])


def _normal(random, shape):
    return random.normal(size=shape)


def _ties(random, shape):
    return random.integers(-2, 3, size=shape).astype(float)


def _many_scales(random, shape):
    return random.normal(size=shape) * 10 ** random.uniform(-4, 0.5, size=shape)


def _blocks(random, shape):
    return (random.random(shape) < 0.4) + 0.005 * random.normal(size=shape)


def _triangle(random, shape):
    """Nothing below the diagonal but what is needed: the limit is the identity, and Sinkhorn-Knopp never gets there."""
    return -3 * np.tril(random.random(shape), -1) + 0.005 * random.normal(size=shape)


KINDS = st.sampled_from([_normal, _ties, _many_scales, _blocks, _triangle])
SPREADS = st.one_of(st.floats(0.0, 10.0), st.floats(10.0, 200.0))


def off(matrix) -> float:
    return max(np.abs(matrix.sum(-1) - 1).max(), np.abs(matrix.sum(-2) - 1).max(), -matrix.min())


def single(z):
    """Logits [N, S, S] as float32 holds them, in float64."""
    return z.astype(np.float32).astype(np.float64)


def logits_of(z) -> np.ndarray:
    return np.moveaxis(z, 0, -1).reshape(-1, len(z))


def torch_matrices(z, dtype, **changes):
    """[N, S, S] from [N, S, S]."""
    streams = z.shape[-1]
    spec = dataclasses.replace(MIX, **{"iterations": steps_needed(streams), **changes})
    return in_torch.chart(torch.tensor(logits_of(z), dtype=dtype), streams, spec).permute(2, 0, 1).double().numpy()


def mlx_matrices(z, **changes):
    streams = z.shape[-1]
    spec = dataclasses.replace(MIX, **{"iterations": steps_needed(streams), **changes})
    found = in_mlx.chart(mx.array(logits_of(z).astype(np.float32)), streams, spec)
    return np.array(found.transpose(2, 0, 1)).astype(np.float64)


def torch_gradient(z, weights, dtype, iterations=None):
    """d sum(weights * matrix) / dz, [N, S, S]."""
    streams = z.shape[-1]
    spec = dataclasses.replace(MIX, iterations=iterations or steps_needed(streams))
    leaf = torch.tensor(logits_of(z), dtype=dtype, requires_grad=True)
    matrix = in_torch.chart(leaf, streams, spec)
    (matrix * torch.tensor(np.moveaxis(weights, 0, -1).copy(), dtype=dtype)).sum().backward()
    assert leaf.grad is not None
    return np.moveaxis(leaf.grad.double().numpy().reshape(streams, streams, -1), -1, 0)


def mlx_gradient(z, weights):
    streams = z.shape[-1]
    spec = dataclasses.replace(MIX, iterations=steps_needed(streams))
    weighted = mx.array(np.moveaxis(weights, 0, -1).astype(np.float32))
    found = mx.grad(lambda leaf: (in_mlx.chart(leaf, streams, spec) * weighted).sum())(
        mx.array(logits_of(z).astype(np.float32))
    )
    return np.moveaxis(np.array(found).astype(np.float64).reshape(streams, streams, -1), -1, 0)


# --- the matrix ----------------------------------------------------------------------------------------------------


@given(seed=SEEDS, streams=st.integers(1, 8), spread=st.floats(0.1, 1.5))
@settings(max_examples=25, deadline=None)
def test_it_is_many_iterations_of_sinkhorn(seed, streams, spread):
    z = np.random.default_rng(seed).normal(scale=spread, size=(streams, streams))
    np.testing.assert_allclose(reference.birkhoff_projection(z), reference.sinkhorn(z, 10_000), atol=1e-10)


@given(seed=SEEDS, streams=STREAMS, spread=SPREADS, kind=KINDS)
@settings(max_examples=30, deadline=None)
def test_the_reference_is_doubly_stochastic_and_a_scaling_of_the_exponential(seed, streams, spread, kind):
    """P = exp(z + f 1^T + 1 g^T): log P - z has no second differences, where nothing of P has vanished."""
    z = spread * kind(np.random.default_rng(seed), (32, streams, streams))
    matrix = reference.birkhoff_projection(z)
    assert off(matrix) <= 1e-13
    seen = matrix.min(axis=(-1, -2)) > 1e-300
    scalings = np.log(matrix[seen]) - z[seen]
    corners = scalings[:, 1:, 1:] + scalings[:, :-1, :-1] - scalings[:, 1:, :-1] - scalings[:, :-1, 1:]
    assert np.abs(corners).max(initial=0) <= 1e-14 * (20 + np.ptp(z))


@given(seed=SEEDS, streams=STREAMS, spread=SPREADS, kind=KINDS, order=ORDERS)
@settings(max_examples=30, deadline=None)
def test_the_backends_reach_it_in_single_precision(seed, streams, spread, kind, order):
    """Errors are those of float32 logits: half a unit in the last place of the farthest ones."""
    z = single(spread * kind(np.random.default_rng(seed), (64, streams, streams)))
    expected = reference.birkhoff_projection(z)
    tolerance = 1e-6 * streams + 2e-7 * np.ptp(z)
    for found in (torch_matrices(z, torch.float32, order=order), mlx_matrices(z, order=order)):
        assert off(found) <= 1e-6 * streams
        np.testing.assert_allclose(found, expected, atol=tolerance)


@pytest.mark.parametrize("streams", range(2, 9))
@pytest.mark.parametrize("kind", [_normal, _ties, _many_scales, _blocks, _triangle])
def test_the_steps_that_are_asked_for_are_enough(streams, kind):
    """More of them change no bit, so all tokens were done."""
    z = 200 * kind(np.random.default_rng(streams), (500, streams, streams))
    enough = torch_matrices(z, torch.float32)
    np.testing.assert_array_equal(enough, torch_matrices(z, torch.float32, iterations=200))


@pytest.mark.parametrize(("spread", "error"), [(1.0, 1e-4), (10.0, 0.1), (200.0, 0.5)])
def test_twenty_steps_are_exact_where_twenty_iterations_are_not(spread, error):
    z = single(np.random.default_rng(0).normal(scale=spread, size=(2048, 4, 4)))
    iterations = torch_matrices(z, torch.float32, solver="iterations", iterations=20)
    assert off(iterations) > error
    for matrix in (torch_matrices(z, torch.float32), mlx_matrices(z)):
        assert off(matrix) <= 2e-6


@pytest.mark.parametrize("compute", [lambda z: torch_matrices(z, torch.float32), mlx_matrices])
def test_a_token_does_not_depend_on_its_neighbours(compute):
    """The steps of one may not be counted by the needs of another."""
    easy = np.random.default_rng(0).normal(size=(16, 4, 4))
    hard = np.concatenate([easy[:8], 200 * easy[8:]])
    np.testing.assert_array_equal(compute(easy)[:8], compute(hard)[:8])


@pytest.mark.parametrize(
    "compute", [reference.birkhoff_projection, lambda z: torch_matrices(z, torch.float32), mlx_matrices]
)
def test_what_is_not_finite_stays_with_its_token(compute):
    z = np.random.default_rng(0).normal(scale=5, size=(3, 4, 4))
    z[1, 2, 3] = np.nan
    found = compute(z)
    assert np.isnan(found[1]).all()
    assert off(found[[0, 2]]) <= 2e-6


def test_too_few_steps_of_the_reference_are_an_error():
    with pytest.raises(ArithmeticError, match=r"sums are off by .* after 1 Newton steps"):
        reference.birkhoff_projection(np.random.default_rng(0).normal(scale=20, size=(4, 4)), steps=1)


@pytest.mark.parametrize("start", ["exp", "softmax"])
@pytest.mark.parametrize("spread", [1.0, 300.0])
def test_truncated_iterations_survive_far_apart_logits_too(start, spread):
    """Without an eps, where rows of the exponential would vanish."""
    z = single(np.random.default_rng(0).normal(scale=spread, size=(64, 4, 4)))
    changes = {"solver": "iterations", "start": start, "order": "columns_last", "iterations": 5}
    expected = reference.sinkhorn(z, 5, "columns_last", start)
    np.testing.assert_allclose(expected.sum(-2), 1, atol=1e-13)
    for found in (torch_matrices(z, torch.float64, **changes), mlx_matrices(z, **changes)):
        np.testing.assert_allclose(found, expected, atol=2e-6 * spread)


# --- its gradient --------------------------------------------------------------------------------------------------


def implicit(z, weights):
    """dZ = P * (dP - a 1^T - 1 b^T) with [I P; P^T I] [a; b] = the sums of P * dP, of one matrix."""
    matrix, eye = reference.birkhoff_projection(z), np.eye(len(z))
    system = np.block([[eye, matrix], [matrix.T, eye]])
    right = np.concatenate([(matrix * weights).sum(1), (matrix * weights).sum(0)])
    a, b = np.split(np.linalg.lstsq(system, right, rcond=1e-12)[0], 2)
    return matrix * (weights - a[:, None] - b)


@given(seed=SEEDS, streams=STREAMS, spread=st.floats(0.1, 3.0))
@settings(max_examples=10, deadline=None)
def test_it_is_the_implicit_formula_and_what_differences_of_the_reference_say(seed, streams, spread):
    random = np.random.default_rng(seed)
    z, weights = spread * random.normal(size=(1, streams, streams)), random.normal(size=(1, streams, streams))
    found = torch_gradient(z, weights, torch.float64)
    np.testing.assert_allclose(found[0], implicit(z[0], weights[0]), atol=1e-9)
    bumps = 1e-5 * np.eye(streams**2).reshape(-1, streams, streams)
    ahead, behind = (reference.birkhoff_projection(z + sign * bumps) for sign in (1, -1))
    differences = ((ahead - behind) * weights).sum(axis=(-1, -2)) / 2e-5
    np.testing.assert_allclose(found.reshape(-1), differences, atol=1e-8)


@pytest.mark.parametrize("streams", [1, 2, 3, 5])
@pytest.mark.parametrize("order", ["rows_last", "columns_last"])
def test_gradcheck(streams, order):
    z = np.random.default_rng(streams).normal(scale=1.5, size=(3, streams, streams))
    spec = dataclasses.replace(MIX, order=order, iterations=32)
    leaf = torch.tensor(logits_of(z), requires_grad=True)
    assert torch.autograd.gradcheck(lambda logits: in_torch.chart(logits, streams, spec), (leaf,), atol=1e-7)


@given(seed=SEEDS, streams=STREAMS, spread=SPREADS, kind=KINDS)
@settings(max_examples=25, deadline=None)
def test_single_precision_agrees_on_both_backends(seed, streams, spread, kind):
    """To the error that float32 logits have anyhow, as in the matrix."""
    random = np.random.default_rng(seed)
    z = single(spread * kind(random, (64, streams, streams)))
    weights = single(random.normal(size=z.shape))
    expected = torch_gradient(z, weights, torch.float64, iterations=64)
    tolerance = 2e-6 * streams + 4e-7 * np.ptp(z)
    np.testing.assert_allclose(torch_gradient(z, weights, torch.float32), expected, atol=tolerance)
    np.testing.assert_allclose(mlx_gradient(z, weights), expected, atol=tolerance)


@given(seed=SEEDS, streams=STREAMS, spread=SPREADS)
@settings(max_examples=25, deadline=None)
def test_it_is_tangent_to_the_polytopes_symmetries(seed, streams, spread):
    """Adding a number to a row or column of the logits changes nothing, so the gradient sums to zero along both."""
    random = np.random.default_rng(seed)
    z, weights = spread * random.normal(size=(8, streams, streams)), random.normal(size=(8, streams, streams))
    found = torch_gradient(z, weights, torch.float64, iterations=64)
    assert max(np.abs(found.sum(-1)).max(), np.abs(found.sum(-2)).max()) <= 1e-12
