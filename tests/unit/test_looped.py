"""Wirings that repeat blocks: what one loop is equal to, what more of them cost, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mhc_exp.body.flops import forward_flops_per_token, training_flops_per_token
from mhc_exp.config.build import ConfigError
from mhc_exp.config.checks import check
from mhc_exp.config.compose import compose
from mhc_exp.planning.recompute import least_needed
from mhc_exp.topology import families, reference
from mhc_exp.topology.layout import mixing_share, parameter_shapes
from mhc_exp.topology.looped import connection

WIDTH = 8
SEEDS = st.integers(0, 2**32 - 1)


def variant(*overrides):
    return compose(["variant=hyperloop", *overrides]).variant


def problem(seed, blocks):
    """An embedding [2, 3, C] and the sublayers of `blocks` blocks."""
    random = np.random.default_rng(seed)
    matrices = random.normal(size=(2 * blocks, WIDTH, WIDTH)) / WIDTH**0.5
    return random.normal(size=(2, 3, WIDTH)), [lambda x, m=m: np.tanh(x @ m) for m in matrices]


def drawn(wiring, seed):
    """Parameters far from their initial values."""
    random = np.random.default_rng(seed)
    values = families.values(wiring, WIDTH, 4, seed)
    return {name: random.normal(size=value.shape) for name, value in values.items()}


def stack(sublayers, x):
    for sublayer in sublayers:
        x = x + sublayer(x)
    return x


@given(seed=SEEDS, blocks=st.integers(1, 3))
@settings(max_examples=10, deadline=None)
def test_one_loop_around_everything_is_a_plain_stack_inside_one_connection(seed, blocks):
    wiring = variant("variant.loops=1", "variant.begin=0", "variant.end=0")
    own, (x0, sublayers) = drawn(wiring, seed), problem(seed, blocks)
    x = np.repeat(x0[..., None, :], 4, axis=-2)
    prefix = "topology.connections.0."
    read, write, mix = reference.coefficients(
        x, {name.removeprefix(prefix): value for name, value in own.items() if prefix in name}, connection(wiring)
    )
    y = stack(sublayers, (read[..., None] * x).sum(axis=-2)) + own["topology.loop_positions"][0]
    expected = (mix @ x + write[..., None] * y[..., None, :]).mean(axis=-2)
    np.testing.assert_allclose(reference.forward(x0, sublayers, own, wiring), expected, rtol=1e-12, atol=1e-12)


@given(seed=SEEDS, count=st.integers(1, 4))
@settings(max_examples=10, deadline=None)
def test_loops_over_one_block_are_mhc_at_block_sites_with_one_block_tied(seed, count):
    looped = variant(f"variant.loops={count}", "variant.begin=0", "variant.end=0", "variant.loop_positions=none",
                     "variant.mix.chart=sinkhorn")  # fmt: skip
    mhc = compose(["variant=mhc", "variant.site=block", "variant.reduce=mean", "variant.init=zero_mix"]).variant
    own, (x0, block) = drawn(looped, seed), problem(seed, 1)
    expected = reference.forward(x0, block * count, own, mhc)
    np.testing.assert_allclose(reference.forward(x0, block, own, looped), expected, rtol=1e-12, atol=1e-12)
    assert {name.rpartition(".")[2] for name in own} == set(parameter_shapes(connection(looped), WIDTH))


def test_begin_and_end_are_plain_residuals_outside_the_loops():
    wiring, inner = variant("variant.begin=1", "variant.end=2"), variant("variant.begin=0", "variant.end=0")
    own, (x0, sublayers) = drawn(wiring, 1), problem(2, 5)
    expected = stack(sublayers[6:], reference.forward(stack(sublayers[:2], x0), sublayers[2:6], own, inner))
    np.testing.assert_allclose(reference.forward(x0, sublayers, own, wiring), expected, rtol=1e-12, atol=1e-12)


def test_every_loop_has_its_own_coefficients_and_its_own_position():
    wiring = variant("variant.begin=0", "variant.end=0")
    own, (x0, sublayers) = drawn(wiring, 3), problem(4, 2)
    plain = reference.forward(x0, sublayers, own, wiring)
    for loop in range(3):
        for name in (f"topology.connections.{loop}.bias", "topology.loop_positions"):
            moved = own[name].copy()
            moved[loop if name.endswith("positions") else 0] += 0.1
            found = reference.forward(x0, sublayers, own | {name: moved}, wiring)
            assert np.abs(found - plain).max() > 1e-3, (name, loop)


def test_streams_share_one_budget_of_forgetting_over_the_loops():
    leaky = variant("variant.mix.chart=circulant", "variant.mix.budget=2.0", "variant.loops=4")
    assert mixing_share(leaky.mix, len(families.wrapped(leaky, 12))) == 0.25


@pytest.mark.parametrize(
    ("overrides", "depth", "stated"),
    [
        ([], 8, [1, 1, 3, 3, 3, 3, 1, 1]),
        ([], 3, [3, 3, 3]),
        ([], 5, [1, 3, 3, 3, 1]),
        (["variant.begin=0", "variant.loops=2"], 5, [2, 2, 2, 2, 1]),
        (["variant.begin=3", "variant.end=0"], 4, [1, 1, 1, 3]),
    ],
)
def test_a_quarter_of_the_blocks_stands_on_each_side_unless_said_otherwise(overrides, depth, stated):
    assert families.passes(variant(*overrides), depth) == stated


def test_no_other_wiring_calls_a_block_twice():
    assert families.passes(compose(["variant=mhc"]).variant, 3) == [1, 1, 1]


def test_what_is_repeated_is_paid_for():
    """Eight blocks called 16 times cost what 16 blocks cost, and the connections come on top."""
    looped, deep = compose(["variant=hyperloop", "depth=8"]), compose(["variant=baseline", "depth=16"])
    once = compose(["variant=hyperloop", "depth=8", "variant.loops=1"])
    own = families.flops_per_token(looped.variant, 64, 8)
    assert forward_flops_per_token(looped, 256) == forward_flops_per_token(deep, 256) + own
    assert training_flops_per_token(looped, 256) > 1.7 * training_flops_per_token(once, 256)
    assert least_needed(looped) > 1.5 * least_needed(once)
    # one connection: projection 2 * nC * 3n and its norm 3nC, chart 4n, read, mix, write (2n + 2n^2 + 2n) C, e_l: C
    assert own == 3 * (2 * 256 * 12 + 3 * 256 + 4 * 4 + (8 + 32 + 8) * 64 + 64)


REFUSED = [
    (["depth=2", "variant.begin=1", "variant.end=1"], "variant.begin", "type depth=3 or more, or variant.begin=null"),
    (["depth=4", "variant.end=7"], "variant.end", "1 blocks before and 7 after the loop leave none of depth=4"),
    (["variant.mix.chart=kronecker", "variant.streams=3"], "variant.mix.chart", "type variant.streams=2"),
    (["variant.mix.chart=free"], "variant.init", "variant.init=hc_paper"),
    (["variant.read.activation=linear"], "variant.init", "variant.init=hc_paper"),
    (["variant.loops=1", "variant.init=mhc_lab"], "variant.init", "type variant.init=zero_mix"),
    (["variant.norm=layer", "variant.mix.chart=circulant"], "variant.norm", "type variant.norm=flat_rms"),
]


@pytest.mark.parametrize(("overrides", "path", "advice"), REFUSED)
def test_what_cannot_be_is_refused_with_what_to_type(overrides, path, advice):
    (refusal,) = check(compose(["variant=hyperloop", "backend=cpu", "tracking=local", *overrides]))
    assert refusal.path == path
    assert advice in refusal.message


@pytest.mark.parametrize("key", ["loops=0", "begin=-1", "end=1.5", "streams=0"])
def test_counts_are_whole_and_large_enough(key):
    with pytest.raises(ConfigError, match=f"variant.{key.partition('=')[0]}"):
        compose(["variant=hyperloop", f"variant.{key}"])
