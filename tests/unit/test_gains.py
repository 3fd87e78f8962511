"""Gains and stream diagnostics on matrices whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mhc_exp.topology.diagnosis import Diagnosis, per_connection, summarise
from mhc_exp.topology.gains import (
    composite_gains,
    effective,
    matrix_gains,
    mean_cosine,
    proxy_log10_max_entry,
)
from mhc_exp.topology.reference import sinkhorn


def doubly_stochastic(random, count, tokens=3, streams=4):
    """[count, tokens, streams, streams] convex combinations of permutations: exact to rounding."""
    weights = random.dirichlet(np.ones(6), (count, tokens))
    permutations = np.stack([np.eye(streams)[random.permutation(streams)] for _ in range(6)])
    return np.einsum("ktp,pij->ktij", weights, permutations)


def diagnosis(mix, streams=4):
    count, tokens = mix.shape[:2]
    ones = np.ones((count, tokens, streams))
    return Diagnosis(mix, ones, ones, np.broadcast_to(np.eye(streams), mix.shape))


@given(seed=st.integers(0, 2**32 - 1), depth=st.sampled_from([1, 7, 200]))
@settings(max_examples=25, deadline=None)
def test_doubly_stochastic_mixing_never_amplifies_at_any_depth(seed, depth):
    forward, backward, whole = composite_gains(doubly_stochastic(np.random.default_rng(seed), depth))
    assert forward.max() <= 1 + 1e-12
    assert backward.max() <= 1 + 1e-12
    np.testing.assert_allclose(whole.sum(-1), 1, atol=1e-12)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_transposing_the_network_swaps_forward_and_backward(seed):
    """(A_K ... A_1)^T = A_1^T ... A_K^T: the whole product's gains trade places."""
    mix = np.random.default_rng(seed).normal(size=(5, 2, 4, 4))
    whole, mirrored = composite_gains(mix)[2], composite_gains(np.swapaxes(mix, -1, -2)[::-1])[2]
    np.testing.assert_allclose(np.swapaxes(whole, -1, -2), mirrored, atol=1e-9)


def test_composites_are_taken_per_token_and_over_every_suffix():
    double, half = 2 * np.eye(2), 0.5 * np.eye(2)
    mix = np.stack([np.stack([half, double]), np.stack([double, half])])  # [K=2, N=2]
    forward, _, whole = composite_gains(mix)
    np.testing.assert_allclose(whole, np.broadcast_to(np.eye(2), whole.shape))
    np.testing.assert_allclose(forward, [2.0, 1.0])  # token 0 amplifies from the last connection on, token 1 never


def test_a_row_sum_of_two_doubles_with_every_connection():
    mix = np.full((10, 1, 4, 4), 0.5)
    columns = matrix_gains(mix)
    assert columns["gain/forward_amax_max"] == pytest.approx(2.0**10)
    assert columns["gain/single_forward_amax_max"] == pytest.approx(2.0)
    assert columns["gain/proxy_log10_max_entry"] == pytest.approx(np.log10(2.0**10 / 4))
    assert columns["gain/sigma_min_log10"] == -16.0


def test_attenuation_that_amax_hides_is_reported():
    """Unit row sums everywhere, but one stream is read by nobody."""
    mix = np.tile(np.array([[1.0, 0.0], [1.0, 0.0]]), (3, 1, 1, 1))
    columns = matrix_gains(mix)
    assert columns["gain/forward_amax_max"] == 1.0
    assert columns["gain/min_column_sum"] == 0.0
    assert columns["gain/column_log_spread"] == np.inf
    assert columns["mix/sinkhorn_residual"] == 1.0


def test_identity_mixing_has_no_gain_and_no_distance():
    columns = summarise(diagnosis(np.broadcast_to(np.eye(4), (6, 1, 4, 4))))
    for name in ("gain/forward_amax_mean", "gain/backward_amax_max", "gain/min_column_sum"):
        assert columns[name] == 1.0
    for name in ("gain/sigma_min_log10", "mix/identity_distance", "mix/sinkhorn_residual", "streams/cosine"):
        assert columns[name] == 0.0
    for name in ("gain/uniform_distance", "gain/difference_energy", "gain/sigma_max", "mix/diagonal"):
        assert columns[name] == pytest.approx(1.0)
    assert columns["gain/column_log_spread"] == 0.0
    assert columns["streams/effective"] == 4.0


def test_a_long_product_of_sharp_sinkhorn_matrices_collapses_to_the_mean():
    mix = sinkhorn(np.random.default_rng(0).normal(size=(200, 1, 4, 4)), iterations=200)
    assert matrix_gains(mix)["gain/uniform_distance"] < 1e-6
    assert matrix_gains(mix)["gain/difference_energy"] < 1e-12


def test_cosine_of_copies_opposites_and_orthogonal_streams():
    streams = np.array([[1.0, 0.0], [2.0, 0.0]])
    assert mean_cosine(streams @ streams.T) == pytest.approx(1.0)
    streams = np.array([[1.0, 0.0], [-3.0, 0.0]])
    assert mean_cosine(streams @ streams.T) == pytest.approx(-1.0)
    assert mean_cosine(np.eye(4)) == 0.0
    assert mean_cosine(np.ones((1, 1))) == 1.0


def test_effective_streams_counts_the_used_ones():
    assert effective(np.array([1.0, 0.0, 0.0, 0.0])) == 1.0
    assert effective(np.array([0.5, -0.5, 0.0, 0.0])) == 2.0
    assert effective(np.ones((3, 4))) == 4.0


def test_overflowing_streams_do_not_hide_the_gains_of_the_matrices():
    """The seed's 48-block HC: its streams overflow, its matrices do not."""
    broken = diagnosis(np.broadcast_to(3 * np.eye(4), (5, 1, 4, 4)))
    broken = Diagnosis(broken.mix, broken.read, broken.write, np.full(broken.gram.shape, np.nan))
    columns = summarise(broken)
    assert columns["gain/proxy_log10_max_entry"] == pytest.approx(5 * np.log10(3))
    assert "streams/cosine" not in columns
    assert all(np.isfinite(value) for value in columns.values())


def test_a_product_that_overflows_is_reported_as_infinite_gain():
    columns = summarise(diagnosis(np.broadcast_to(np.full((4, 4), 1e3), (200, 1, 4, 4))))
    assert columns["gain/forward_amax_max"] == np.inf
    assert "gain/sigma_max" not in columns


def test_the_proxy_never_falls_below_its_floor():
    assert proxy_log10_max_entry(np.zeros((2, 1, 4, 4))) == -12.0


# --- connection by connection ----------------------------------------------------------------------------------------


def test_every_connection_is_described_by_its_own_matrix_and_by_what_follows_it():
    mix = np.stack([np.diag([3.0, 1.0]), np.diag([0.5, 0.5]), np.array([[2.0, 2.0], [0.0, 0.0]])])[:, None]
    columns = per_connection(diagnosis(mix, streams=2))
    assert columns["mix/sigma_1"] == pytest.approx([3.0, 0.5, 2 * np.sqrt(2)], rel=1e-5)
    assert columns["mix/sigma_2"] == pytest.approx([1.0, 0.5, 0.0], abs=1e-6)
    assert columns["mix/diagonal"] == [2.0, 0.5, 1.0]
    assert (columns["mix/entry_min"], columns["mix/entry_max"]) == ([0.0, 0.0, 0.0], [3.0, 0.5, 2.0])
    assert columns["gain/forward_amax"] == [3.0, 0.5, 4.0]
    assert columns["gain/backward_amax"] == [3.0, 0.5, 2.0]
    assert columns["gain/composite_forward"] == [4.0, 2.0, 4.0]  # [[3, 1], [0, 0]], [[1, 1], [0, 0]], [[2, 2], [0, 0]]
    assert columns["gain/composite_backward"] == [3.0, 1.0, 2.0]
    assert columns["streams/effective"] == [2.0, 2.0, 2.0]
    assert columns["streams/cosine"] == [0.0, 0.0, 0.0]
    assert columns["read/mean"] == [1.0, 1.0, 1.0]


def test_the_first_composite_is_the_gain_of_the_whole_product():
    mix = np.random.default_rng(1).normal(size=(6, 3, 4, 4))
    columns, (_, _, whole) = per_connection(diagnosis(mix)), composite_gains(mix)
    expected = np.abs(whole.sum(-1)).max(-1).mean()
    assert columns["gain/composite_forward"][0] == pytest.approx(expected, rel=1e-5)
    assert len({len(values) for values in columns.values()}) == 1


def test_a_composite_that_overflows_is_no_number_and_the_others_stay():
    mix = np.broadcast_to(np.full((4, 4), 1e200), (3, 1, 4, 4))
    columns = per_connection(diagnosis(mix))
    assert columns["gain/composite_forward"] == [None, None, 4e200]
