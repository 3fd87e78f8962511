"""The wirings with a history in numpy: equalities between them, what is read when, counts, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from history_cases import DEPTH, logits, parameters, tiny, tokens
from hypothesis import given, settings
from hypothesis import strategies as st

from mhc_exp.body.parameters import is_connection
from mhc_exp.topology import families
from mhc_exp.topology.reference.history.attnres import read


def same_function(one, other, size, rename=lambda values: values):
    """Whether two wirings agree on moved weights, those of `one` renamed for `other`."""
    first, second = tiny(*one), tiny(*other)
    values = parameters(first, size)
    np.testing.assert_allclose(logits(first, values, tokens()), logits(second, rename(values), tokens()), atol=1e-12)


def shared(values):
    return {name: value for name, value in values.items() if not is_connection(name)}


# -- equalities ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("constraint", ["simplex", "identity_preserving", "doubly_stochastic"])
def test_a_history_of_one_state_is_the_pre_norm_transformer(constraint):
    history = ["variant=history", "variant.window=1", f"variant.constraint={constraint}"]
    assert not [name for name in parameters(tiny(*history)) if is_connection(name)]
    same_function(history, ["variant=baseline"], 0.0)


def test_an_identity_preserving_history_with_floor_near_one_is_nearly_the_residual():
    config = tiny("variant=history", "variant.constraint=identity_preserving", "variant.floor=0.999999",
                  "variant.newest=0.9999995")  # fmt: skip
    values = parameters(config, 0.5)
    expected = logits(tiny("variant=baseline"), shared(values), tokens())
    np.testing.assert_allclose(logits(config, values, tokens()), expected, atol=1e-5)


def test_blocks_of_one_sublayer_are_full_attention_residuals():
    same_function(["variant=attnres"], ["variant=block_attnres", f"variant.blocks={2 * DEPTH}"], 0.5)
    same_function(["variant=attnres"], ["variant=block_attnres", "variant.blocks=99"], 0.5)


def test_one_head_is_attention_residuals():
    same_function(["variant=mhar", "variant.heads=1"], ["variant=attnres"], 0.5)


def test_heads_with_equal_scores_read_as_one_head():
    """A query that is zero outside one channel per head, applied to sources whose heads are copies."""
    random = np.random.default_rng(0)
    half = random.normal(size=(3, 2, 4, 4))
    sources = list(np.concatenate([half, half], axis=-1))
    query = np.tile(random.normal(size=4), 2)
    key_norm = np.ones(8)
    one = read(sources, {"query": 0.5 * query, "key_norm": key_norm}, heads=1)
    two = read(sources, {"query": query, "key_norm": key_norm}, heads=2)
    np.testing.assert_allclose(one, two, atol=1e-12)


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 6), heads=st.sampled_from([1, 2, 4]))
@settings(max_examples=20, deadline=None)
def test_a_zero_query_reads_the_mean_and_any_query_stays_between_the_sources(seed, count, heads):
    random = np.random.default_rng(seed)
    sources = list(random.normal(size=(count, 2, 3, 8)))
    ones = np.ones(8)
    zero = read(sources, {"query": 0 * ones, "key_norm": ones}, heads)
    np.testing.assert_allclose(zero, np.mean(sources, axis=0), atol=1e-12)
    found = read(sources, {"query": random.normal(size=8), "key_norm": ones}, heads)
    assert (found <= np.max(sources, axis=0) + 1e-12).all()
    assert (found >= np.min(sources, axis=0) - 1e-12).all()


def test_one_way_static_mudd_is_denseformer():
    def renamed(values):
        return {
            name.replace(".bias", ".weight") if is_connection(name) else name:
            value[0] if is_connection(name) else value for name, value in values.items()
        }  # fmt: skip

    mudd = ["variant=muddformer", "variant.multiway=false", "variant.coefficients=static"]
    same_function(mudd, ["variant=denseformer"], 0.5, renamed)


def test_mudd_with_four_equal_ways_is_mudd_with_one():
    one, four = tiny("variant=muddformer", "variant.multiway=false"), tiny("variant=muddformer")
    values = parameters(one, 0.5)
    copied = {
        name: np.repeat(value, 4, axis=0) if is_connection(name) and f".{DEPTH - 1}." not in name else value
        for name, value in values.items()
    }
    np.testing.assert_allclose(logits(one, values, tokens()), logits(four, copied, tokens()), atol=1e-12)


@pytest.mark.parametrize("name", ["denseformer", "muddformer", "deep_cross_attention"])
def test_these_start_as_the_pre_norm_transformer_exactly(name):
    same_function([f"variant={name}"], ["variant=baseline"], 0.0, shared)


@pytest.mark.parametrize("learnable", ["true", "false"])
def test_value_residual_without_the_first_values_is_the_pre_norm_transformer(learnable):
    options = ["variant.first=0", "variant.own=1", f"variant.learnable={learnable}"]
    same_function(["variant=value_residual", *options], ["variant=baseline"], 0.0, shared)


def test_learnable_and_fixed_value_residuals_agree_at_the_start_and_differ_from_pre_norm():
    same_function(["variant=value_residual"], ["variant=value_residual", "variant.learnable=false"], 0.0, shared)
    assert not families.equals_prenorm_at_step_0(tiny("variant=value_residual").variant)


def test_k_dca_with_as_many_outputs_as_blocks_reads_everything():
    same_function(["variant=deep_cross_attention"], ["variant=deep_cross_attention", f"variant.last={DEPTH}"], 0.5)
