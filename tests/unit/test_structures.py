"""Wirings of another structure: what they are equal to, what they leave alone, and what they cost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mhc_exp.body.parameters import initial_parameters, is_connection
from mhc_exp.config.checks import check
from mhc_exp.config.compose import compose
from mhc_exp.topology import families, gated, reference, segments, sparse
from mhc_exp.topology.layout import parameter_shapes
from mhc_exp.topology.reference import sparse as sparse_reference

WIDTH, SUBLAYERS = 8, 4
SEEDS = st.integers(0, 2**32 - 1)


class Toy:
    """A sublayer with a norm of its own: inner(norm(x)) = tanh(norm(x) M)."""

    def __init__(self, matrix):
        self.matrix = matrix

    def __call__(self, x):
        return self.inner(self.norm(x))

    def norm(self, x):
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)

    def inner(self, x):
        return np.tanh(x @ self.matrix)


def problem(seed):
    random = np.random.default_rng(seed)
    return random.normal(size=(2, 3, WIDTH)), [Toy(m) for m in random.normal(size=(SUBLAYERS, WIDTH, WIDTH))]


def variant(*overrides):
    return compose(list(overrides)).variant


def drawn(shapes, random):
    return {
        f"topology.connections.{k}.{name}": random.normal(size=shape)
        for k in range(SUBLAYERS)
        for name, shape in shapes.items()
    }


@given(seed=SEEDS, count=st.integers(1, 4))
@settings(max_examples=10, deadline=None)
def test_segments_as_wide_as_the_body_are_the_streams_of_hyper_connections(seed, count):
    """m = 1: Generalized Hyper-Connections are HC (arXiv:2511.11238 section 3.3), for n = 1 so is Frac."""
    wide = variant("variant=vwn", f"variant.segments={count}", "variant.fractions=1", "variant.coefficients=static",
                   "variant.expand=repeat", "variant.reduce=mean", "variant.reduce_norm=none")  # fmt: skip
    hc = variant("variant=hc", f"variant.streams={count}", "variant.coefficients=static", "variant.reduce=mean")
    own = drawn(segments.connection_shapes(wide, WIDTH), np.random.default_rng(seed))
    theirs = {name: np.concatenate([b[0], b[1], b[2:].T.reshape(-1)]) for name, b in own.items()}
    x0, sublayers = problem(seed)
    found = reference.forward(x0, sublayers, own, wide)
    np.testing.assert_allclose(found, reference.forward(x0, sublayers, theirs, hc), rtol=1e-10, atol=1e-10)


@given(seed=SEEDS)
@settings(max_examples=10, deadline=None)
def test_a_sparse_wiring_that_updates_every_stream_is_mhc(seed):
    every = variant("variant=xhc", "variant.streams=4", "variant.active=4", "variant.fixed=4",
                    "variant.mix.order=rows_last")  # fmt: skip
    mhc, random = variant("variant=mhc"), np.random.default_rng(seed)
    theirs = drawn(parameter_shapes(mhc, WIDTH), random)
    own = {}
    for name, value in theirs.items():
        prefix, leaf = name.rsplit(".", 1)
        if leaf == "scale":
            own[name] = value
        else:
            own[f"{prefix}.read_{leaf}"], own[name] = value[:4], value[4:]
    assert own.keys() == drawn(sparse.connection_shapes(every, WIDTH), random).keys()
    x0, sublayers = problem(seed)
    found = reference.forward(x0, sublayers, own, every)
    np.testing.assert_allclose(found, reference.forward(x0, sublayers, theirs, mhc), rtol=1e-9, atol=1e-9)


@given(seed=SEEDS, active=st.integers(1, 5), fixed=st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_fixed_streams_are_always_active_and_none_twice(seed, active, fixed):
    fixed = min(fixed, active)
    wiring = variant("variant=xhc", "variant.streams=6", f"variant.active={active}", f"variant.fixed={fixed}")
    random = np.random.default_rng(seed)
    own = {name: random.normal(size=shape) for name, shape in sparse.connection_shapes(wiring, WIDTH).items()}
    chosen, gates = sparse_reference.route(random.normal(size=(2, 3, 6, WIDTH)), own, wiring)
    assert chosen.shape == gates.shape == (2, 3, active)
    assert (chosen[..., :fixed] == np.arange(fixed)).all()
    assert (gates[..., :fixed] == 1).all()
    assert ((gates[..., fixed:] > 0) & (gates[..., fixed:] < 1)).all()
    assert (np.diff(gates[..., fixed:], axis=-1) <= 0).all()
    assert all(len(set(row)) == active for row in chosen.reshape(-1, active))


def test_a_tie_of_the_router_goes_to_the_lower_index():
    wiring = variant("variant=xhc")
    own = {name: np.zeros(shape) for name, shape in sparse.connection_shapes(wiring, WIDTH).items()}
    chosen, _ = sparse_reference.route(np.random.default_rng(0).normal(size=(1, 2, 16, WIDTH)), own, wiring)
    assert (chosen == np.arange(4)).all()


@given(seed=SEEDS, spread=st.floats(0.1, 8))
@settings(max_examples=25, deadline=None)
def test_clamped_rows_never_sum_to_more_than_one_and_small_ones_stay(seed, spread):
    logits = np.random.default_rng(seed).normal(scale=spread, size=(4, 4))
    matrix = reference.sinkhorn(logits, order="columns_last")
    clamped = sparse_reference.clamp(matrix)
    assert clamped.sum(axis=-1).max() <= 1 + 1e-12
    small = matrix.sum(axis=-1) <= 1
    assert (clamped[small] == matrix[small]).all()


def test_single_pass_reads_with_the_weights_of_the_connection_before():
    """Spelled out for static coefficients (arXiv:2609.19969)."""
    wiring = variant("variant=mhc", "variant.coefficients=static", "variant.read_from=previous",
                     "variant.reduce=last_read", "variant.streams=2")  # fmt: skip
    own = drawn(parameter_shapes(wiring, WIDTH), np.random.default_rng(0))
    x0, sublayers = problem(1)
    a, b, weights = x0, x0, np.array([1.0, 0.0])
    for k, sublayer in enumerate(sublayers):
        bias = own[f"topology.connections.{k}.bias"]
        y = sublayer(weights[0] * a + weights[1] * b)
        write, mix = 2 / (1 + np.exp(-bias[2:4])), reference.sinkhorn(bias[4:].reshape(2, 2))
        a, b = mix[0, 0] * a + mix[0, 1] * b + write[0] * y, mix[1, 0] * a + mix[1, 1] * b + write[1] * y
        weights = 1 / (1 + np.exp(-bias[:2]))
    found = reference.forward(x0, sublayers, own, wiring)
    np.testing.assert_allclose(found, weights[0] * a + weights[1] * b, rtol=1e-12)


@pytest.mark.parametrize("name", ["mhc", "hc", "gated_residual", "xhc"])
def test_scales_of_one_are_replicas_and_initial_scales_lie_around_0_6(name):
    config = compose([f"variant={name}", "variant.expand=learned_scale", "depth=2", f"model.width={WIDTH}"])
    values = {n: a.astype(np.float64) for n, a in initial_parameters(config, 16).items() if is_connection(n)}
    scale = values["topology.expand.weight"]
    bound = (6 / sum(scale.shape)) ** 0.5
    assert abs(scale - 0.6).max() <= bound
    assert np.ptp(scale) > bound
    x0, sublayers = problem(2)
    ones = values | {"topology.expand.weight": np.ones_like(scale)}
    plain = variant(f"variant={name}")
    expected = reference.forward(x0, sublayers, ones, plain)
    np.testing.assert_array_equal(reference.forward(x0, sublayers, ones, config.variant), expected)
    assert (reference.forward(x0, sublayers, values, config.variant) != expected).any()


def test_gates_that_know_nothing_halve_what_is_read_and_write_it_once():
    wiring = variant("variant=gated_residual", "variant.reduce=mean")
    shapes = gated.connection_shapes(wiring, WIDTH)
    start = {name: np.ones(shape) if name == "gain" else np.zeros(shape) for name, shape in shapes.items()}
    own = {f"topology.connections.{k}.{name}": value for k in range(SUBLAYERS) for name, value in start.items()}
    x0, sublayers = problem(3)
    x = x0
    for sublayer in sublayers:
        x = x + sublayer.inner(sublayer.norm(x) / 2)
    np.testing.assert_allclose(reference.forward(x0, sublayers, own, wiring), x, rtol=1e-12)


def test_segments_and_sparse_streams_cost_what_their_equations_say():
    """C = 64, one block. Static frac: read and mix 2 * 4 * C each, write 2 * C."""
    static = variant("variant=frac", "variant.coefficients=static")
    assert families.flops_per_token(static, 64, 1) == 2 * (2 * 4 * 64 + 2 * 4 * 64 + 2 * 64)
    xhc, dense = variant("variant=xhc"), variant("variant=mhc", "variant.streams=16")
    assert families.flops_per_token(xhc, 64, 1) < families.flops_per_token(dense, 64, 1) / 4


def test_the_virtual_width_is_what_is_kept():
    assert families.kept(variant("variant=frac"), 2) == 1
    assert families.kept(variant("variant=vwn", "variant.segments=6", "variant.reduce_norm=none"), 2) == 1.5


REFUSED = [
    (["variant=mhc", "variant.reduce=last_read"], "variant.reduce", "type variant.read_from=previous"),
    (["variant=gated_residual", "variant.bottleneck=65"], "variant.bottleneck", "a number up to 64"),
    (["variant=frac", "variant.segments=5", "variant.fractions=5"], "variant.fractions", "type variant.fractions=4"),
    (["variant=vwn", "variant.segments=2"], "variant.segments", "type variant.segments=4"),
    (["variant=vwn", "variant.segments=6"], "variant.reduce_norm", "type variant.reduce_norm=none"),
    (["variant=xhc", "variant.active=17"], "variant.active", "type variant.active=16"),
    (["variant=xhc", "variant.fixed=5"], "variant.fixed", "type variant.fixed=4"),
    (["variant=xhc", "variant.mix.chart=free"], "variant.mix.chart", "type variant.mix.chart=sinkhorn"),
    (["variant=xhc", "variant.mix.start=softmax", "variant.mix.order=rows_last"], "variant.mix.start", "columns_last"),
]


@pytest.mark.parametrize(("overrides", "path", "advice"), REFUSED)
def test_what_cannot_be_is_refused_with_what_to_type(overrides, path, advice):
    (refusal,) = check(compose(overrides))
    assert refusal.path == path
    assert advice in refusal.message
