"""The mathematics of the charts of H_res: what their papers prove about them, and what they do not say."""

from __future__ import annotations

import numpy as np
import pytest
from chart_cases import EXACT, SEEDS, draw, matrices, spec
from hypothesis import given, settings
from hypothesis import strategies as st

from mhc_exp.topology import reference
from mhc_exp.topology.charts import CHARTS

ROTATIONS = ["quaternion", "cayley"]


def legal_streams(chart, limit=8):
    return [n for n in range(2, limit + 1) if CHARTS[chart].legal(n, 2)]


def off_doubly_stochastic(matrix):
    return max(np.abs(matrix.sum(-1) - 1).max(), np.abs(matrix.sum(-2) - 1).max(), -matrix.min())


# --- what kind of matrix -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chart", EXACT)
@given(seed=SEEDS, spread=st.floats(0.0, 4.0))
@settings(max_examples=15, deadline=None)
def test_exact_charts_are_doubly_stochastic_to_rounding(chart, seed, spread):
    for streams in legal_streams(chart):
        assert off_doubly_stochastic(matrices(chart, seed, streams, spread)) <= 1e-12


@pytest.mark.parametrize("chart", EXACT)
def test_exact_charts_are_doubly_stochastic_in_single_precision_on_both_backends(chart):
    for matrix in in_single(chart, draw(chart, seed=0, count=512)):
        assert off_doubly_stochastic(matrix) <= 1e-6


@pytest.mark.parametrize("chart", ROTATIONS)
@given(seed=SEEDS, spread=st.floats(0.0, 4.0))
@settings(max_examples=15, deadline=None)
def test_rotations_are_orthogonal_with_determinant_one(chart, seed, spread):
    for streams in legal_streams(chart):
        matrix = matrices(chart, seed, streams, spread)
        np.testing.assert_allclose(matrix @ np.swapaxes(matrix, -1, -2), np.eye(streams) + 0 * matrix, atol=1e-12)
        np.testing.assert_allclose(np.linalg.det(matrix), 1.0, atol=1e-12)


@pytest.mark.parametrize("chart", ROTATIONS)
def test_rotations_are_orthogonal_in_single_precision_on_both_backends(chart):
    for matrix in in_single(chart, draw(chart, seed=0, count=512)):
        product = matrix.astype(np.float64) @ np.swapaxes(matrix, -1, -2)
        np.testing.assert_allclose(product, np.broadcast_to(np.eye(4), product.shape), atol=2e-6)


def in_single(chart, logits, **changes):
    """The matrices of both backends, from float32 logits."""
    import mlx.core as mx
    import torch

    from mhc_exp.mlx import charts as in_mlx
    from mhc_exp.torch import charts as in_torch

    values, chosen = logits.T.astype(np.float32), spec(chart, **changes)
    yield in_torch.chart(torch.tensor(values), 4, chosen).permute(2, 0, 1).numpy()
    yield np.array(in_mlx.chart(mx.array(values), 4, chosen).transpose(2, 0, 1))


@pytest.mark.parametrize("chart", [*ROTATIONS, "orthostochastic"])
def test_zero_logits_are_the_identity_bit_for_bit(chart):
    zero = np.zeros((1, CHARTS[chart].logits(4, 2)))
    changes = {"eps": 1e-8} if chart == "quaternion" else {}
    for matrix in in_single(chart, zero, **changes):
        assert (matrix == np.eye(4)).all()
    np.testing.assert_allclose(reference.chart(zero, 4, spec(chart))[0], np.eye(4), atol=1e-15)


@pytest.mark.parametrize(("chart", "axis"), [("row_softmax", -1), ("column_softmax", -2)])
def test_one_sided_charts_have_one_unit_sum_and_products_bounded_at_any_depth(chart, axis):
    matrix = matrices(chart, seed=1, spread=3.0)
    np.testing.assert_allclose(matrix.sum(axis=axis), 1, atol=1e-14)
    assert np.abs(matrix.sum(axis=-3 - axis) - 1).max() > 0.1
    product = np.eye(4)
    for layer in np.concatenate([matrices(chart, seed, spread=3.0) for seed in range(25)]):
        product = layer @ product
        assert np.linalg.norm(product, 2) <= 2 + 1e-12  # sqrt(n)


@pytest.mark.parametrize("chart", EXACT)
def test_products_of_doubly_stochastic_charts_never_amplify_at_depth_200(chart):
    product = np.eye(4)
    for layer in np.concatenate([matrices(chart, seed, spread=2.0) for seed in range(25)]):
        product = layer @ product
        assert max(np.abs(product.sum(-1)).max(), np.abs(product.sum(-2)).max()) <= 1 + 1e-11


@pytest.mark.parametrize("chart", ROTATIONS)
def test_products_of_rotations_keep_every_direction_at_depth_200(chart):
    product = np.eye(4)
    for layer in np.concatenate([matrices(chart, seed, spread=2.0) for seed in range(25)]):
        product = layer @ product
    np.testing.assert_allclose(np.linalg.svd(product, compute_uv=False), 1.0, atol=1e-11)
