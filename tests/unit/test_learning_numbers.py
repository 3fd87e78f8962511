"""Scales, gradient norms and tangent parts of connections on numbers whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from mhc_exp.config.compose import compose
from mhc_exp.topology import families, gains, learning, segments
from mhc_exp.topology.layout import layout, parameter_shapes


def test_the_dominant_share_is_one_for_one_stream_and_a_quarter_for_four_alike():
    weights = np.array([[[0.0, -2.0, 0.0, 0.0]], [[1.0, 1.0, 1.0, 1.0]]])
    assert gains.dominant_share(weights) == pytest.approx([1.0, 0.25])


def test_the_tangent_part_has_zero_sums_and_leaves_a_tangent_alone():
    gradient = np.random.default_rng(0).normal(size=(2, 3, 4, 4))
    projected = learning.tangent(gradient)
    np.testing.assert_allclose(projected.sum(-1), 0, atol=1e-12)
    np.testing.assert_allclose(projected.sum(-2), 0, atol=1e-12)
    np.testing.assert_allclose(learning.tangent(projected), projected, atol=1e-12)
    assert learning.tangent_share(projected) == pytest.approx([1.0, 1.0])


def test_a_gradient_that_asks_for_gain_alone_has_no_tangent_part():
    rows = np.tile(np.arange(4.0)[:, None], (1, 1, 1, 4))  # every entry of a row alike: more of everything
    assert learning.tangent_share(rows) == pytest.approx([0.0], abs=1e-12)
    assert np.isnan(learning.tangent_share(np.zeros((1, 1, 4, 4)))).all()


def test_a_gradient_without_preference_has_the_share_of_the_dimensions():
    gradient = np.random.default_rng(1).normal(size=(1, 20_000, 4, 4))
    assert learning.tangent_share(gradient) == pytest.approx([0.75], abs=0.01)


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["variant=mhc"], ["read", "write", "mix", "scale"]),
        (["variant=hc"], ["read", "write", "mix", "scale"]),
        (["variant=mhc", "variant.coefficients=static"], ["read", "write", "mix"]),
        (["variant=identity_hc"], ["read", "write", "scale"]),
    ],
    ids=str,
)
def test_gradient_norms_find_every_part_of_every_wiring(overrides, names):
    """Gradients that are 1 in one part alone: its norm is the root of its size, the others are zero."""
    variant = compose(["backend=cpu", *overrides]).variant
    shapes = parameter_shapes(variant, 8)
    zeros = {f"topology.connections.{k}.{name}": np.zeros(shape) for k in (0, 1) for name, shape in shapes.items()}
    for name in names:
        gradients = {key: value.copy() for key, value in zeros.items()}
        size = _fill(gradients, name, layout(variant), variant.norm)
        found = learning.gradient_norms(gradients, 2, families.parts(variant))
        assert list(found) == names
        for other, norms in found.items():
            assert norms == pytest.approx([0.0, np.sqrt(size) if other == name else 0.0]), other


def _fill(gradients, name, parts, norm):
    own = "topology.connections.1."
    if name == "scale":
        gradients[own + "scale"][:] = 1
        return gradients[own + "scale"].size
    which = ("read", "write", "mix").index(name)
    gradients[own + "bias"][parts.slices[which]] = 1
    if own + "weight" in gradients:
        rows = parts.slices[which] if norm == "flat_rms" else (slice(0, 1), slice(1, 2), slice(2, None))[which]
        gradients[own + "weight"][rows] = 1
    return sum(int((gradients[own + leaf] == 1).sum()) for leaf in ("bias", "weight") if own + leaf in gradients)


@pytest.mark.parametrize(
    ("overrides", "value", "expected"),
    [
        (["variant=mhc"], [1.0, 2.0, 3.0], {"read": 1.0, "write": 2.0, "mix": 3.0}),
        (["variant=hc"], [1.0, 2.0], {"read": 1.0, "write": 2.0, "mix": 1.0}),
        (["variant=identity_hc"], [1.0, 2.0], {"read": 1.0, "write": 2.0}),
        (["variant=hc", "variant.mix.chart=identity"], [1.0, 2.0], {"read": 1.0, "write": 2.0}),
        (["variant=mhc", "variant.mix.scale=fixed"], [1.0, 2.0], {"read": 1.0, "write": 2.0}),
        (["variant=xhc"], [1.0, 2.0, 3.0], {"read": 1.0, "write": 2.0, "mix": 3.0}),
        (["variant=frac"], [1.0, -2.0], {"read": 1.0, "write": -2.0, "mix": 1.0}),
    ],
    ids=str,
)
def test_scales_are_named_by_what_they_scale(overrides, value, expected):
    variant = compose(["backend=cpu", *overrides]).variant
    given = {f"topology.connections.{k}.scale": np.array(value) + k for k in (0, 1)}
    found = learning.scales(given, 2, families.scale_entries(variant))
    assert {part: [*line] for part, line in found.items()} == {part: [x, x + 1] for part, x in expected.items()}
    assert learning.scales({}, 2, families.scale_entries(variant)) == {}


def test_a_scale_for_every_coefficient_is_their_mean():
    variant = compose(["variant=vwn", "backend=cpu"]).variant
    shape = families.values(variant, 64, 1, 0)["topology.connections.0.scale"].shape
    read, write, mix = segments.rows(variant)
    value = np.zeros(shape)
    value[read], value[write], value[mix] = 1.0, 2.0, 3.0
    found = learning.scales({"topology.connections.0.scale": value}, 1, families.scale_entries(variant))
    assert {part: line.tolist() for part, line in found.items()} == {"read": [1.0], "write": [2.0], "mix": [3.0]}


@pytest.mark.parametrize("wiring", ["frac", "vwn", "xhc", "gated_residual", "attnres", "muddformer", "history"])
def test_the_parts_of_a_connection_have_all_of_its_gradient_but_that_of_norms(wiring):
    """Norms of the parts add up, in squares, to the norm of every parameter of the connection."""
    variant = compose([f"variant={wiring}", "backend=cpu"]).variant
    random = np.random.default_rng(0)
    gradients = {name: random.normal(size=value.shape) for name, value in families.values(variant, 64, 3, 0).items()}
    count = len(families.reads(variant, 3) or [0] * 6)
    found = learning.gradient_norms(gradients, count, families.parts(variant))
    for index in range(count):
        prefix = f"topology.connections.{index}."
        own = [g for name, g in gradients.items() if name.startswith(prefix) and ".norm." not in name]
        norms = np.array([values[index] for values in found.values()])
        assert np.isnan(norms).all() == (not own)
        assert learning.total(norms) == pytest.approx(np.sqrt(sum((one**2).sum() for one in own)))


def test_the_total_of_norms_passes_over_what_does_not_exist():
    assert learning.total([3.0, np.nan, 4.0]) == 5.0
