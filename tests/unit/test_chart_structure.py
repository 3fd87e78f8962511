"""What charts of H_res can reach, and where their gradient is zero."""

from __future__ import annotations

import numpy as np
import pytest
from chart_cases import EXACT, MIX, SEEDS, draw, matrices, spec
from hypothesis import given, settings
from hypothesis import strategies as st

from mhc_exp.body.parameters import initial_parameters
from mhc_exp.config.compose import compose
from mhc_exp.config.variant_rules import variant_problems
from mhc_exp.topology import reference
from mhc_exp.topology.charts import CHARTS, initial_logits
from mhc_exp.topology.families import flops_per_token
from mhc_exp.topology.init import PRESETS
from mhc_exp.topology.layout import mixing_share, parameter_shapes
from mhc_exp.topology.reference.charts import interval

FROM_LOGITS = [name for name in CHARTS if name != "identity"]


# --- structure -----------------------------------------------------------------------------------------------------


@given(seed=SEEDS, streams=st.sampled_from([2, 3, 4, 8]))
@settings(max_examples=25, deadline=None)
def test_circulants_are_circulant_and_commute(seed, streams):
    one, other = matrices("circulant", seed, streams)[:2]
    np.testing.assert_allclose(np.roll(one, (1, 1), axis=(0, 1)), one, atol=1e-15)
    np.testing.assert_allclose(one @ other, other @ one, atol=1e-14)


@given(seed=SEEDS)
@settings(max_examples=25, deadline=None)
def test_kronecker_is_the_product_of_two_by_two_factors(seed):
    z = draw("kronecker", seed, streams=8, count=1)[0]
    stay = 1 / (1 + np.exp(z[1::2] - z[::2]))
    factors = [np.array([[p, 1 - p], [1 - p, p]]) for p in stay]
    expected = np.kron(np.kron(factors[0], factors[1]), factors[2])
    np.testing.assert_allclose(reference.chart(z, 8, spec("kronecker")), expected, atol=1e-14)


@given(seed=SEEDS, streams=st.integers(2, 6))
@settings(max_examples=25, deadline=None)
def test_transport_reaches_every_matrix_inside_the_birkhoff_polytope(seed, streams):
    target = reference.sinkhorn(np.random.default_rng(seed).normal(size=(streams, streams)), 500)
    found = reference.chart(transport_logits(target), streams, spec("transport"))
    np.testing.assert_allclose(found, target, atol=1e-10)


def transport_logits(matrix):
    """The chart's inverse: where each entry lies in the interval that the entries before it leave."""
    streams = len(matrix)
    logits, columns = [], np.ones(streams)
    for i in range(streams - 1):
        row = np.ones(())
        for j in range(streams - 1):
            low, high = interval(row, columns, i, j)
            share = (matrix[i, j] - low) / (high - low)
            logits.append(np.log(share / (1 - share)))
            row, columns[j] = row - matrix[i, j], columns[j] - matrix[i, j]
        columns[-1] -= row
    return np.array(logits)


def test_orthostochastic_of_larger_blocks_reaches_the_uniform_matrix_that_kronecker_free_ones_miss():
    """s=1: the centre of the 3 x 3 polytope is no square of an orthogonal matrix; s=2 comes as close as one likes."""
    from mhc_exp.torch import charts as in_torch

    assert closest_to_uniform(in_torch, expansion=1) > 1e-2
    assert closest_to_uniform(in_torch, expansion=2) < 1e-4


def closest_to_uniform(backend, expansion):
    import torch

    chosen = spec("orthostochastic", expansion=expansion)
    size = CHARTS["orthostochastic"].logits(3, expansion)
    logits = torch.tensor(np.random.default_rng(0).normal(size=(size, 8)), requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        error = (backend.chart(logits, 3, chosen) - 1 / 3).square().sum((0, 1))
        error.sum().backward()
        optimizer.step()
    return float(error.detach().min().sqrt())


def test_orthostochastic_has_no_gradient_at_zero_logits_and_every_other_chart_has():
    """Entries are squares of entries that are zero, or one at a maximum: a model that starts there stays there."""
    for chart in FROM_LOGITS:
        size, step = CHARTS[chart].logits(4, 2), 1e-6
        ahead, behind = (reference.chart(sign * step * np.eye(size), 4, spec(chart)) for sign in (1, -1))
        slope = np.abs(ahead - behind).max(axis=(-1, -2)) / (2 * step)
        assert (slope.max() < 1e-9) if chart == "orthostochastic" else (slope.max() > 0.01), chart


# --- the saddle of equal streams -------------------------------------------------------------------------------------


@pytest.mark.parametrize("chart", ["sinkhorn", *EXACT])
def test_the_gradient_of_mixing_grows_in_proportion_to_how_far_streams_are_apart(chart):
    """The saddle: dL/dH = g x^T with equal rows of x is orthogonal to every direction of the polytope. dL/dlogits by
    central differences of the specification, for streams that are copies but for a share of noise.
    """
    random = np.random.default_rng(0)
    g, copies, noise = random.normal(size=(4, 1)), np.ones((4, 1)), random.normal(size=(4, 1))
    logits, step = draw(chart, seed=1, count=1)[0], 1e-5
    bumps = step * np.eye(len(logits))
    ahead, behind = (reference.chart(logits + sign * bumps, 4, spec(chart, solver="newton")) for sign in (1, -1))
    directions = (ahead - behind) / (2 * step)  # dH/dlogit

    def gradient(share):
        return np.abs(np.einsum("kij,ij->k", directions, g @ (copies + share * noise).T)).max()

    shares = np.array([1e-3, 1e-2, 1e-1])
    sizes = np.array([gradient(share) for share in shares])
    slope = np.polyfit(np.log(shares), np.log(sizes), 1)[0]
    assert gradient(0.0) < 1e-9 * sizes[-1] + 1e-10
    assert sizes[-1] > 1e-3
    assert slope == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("chart", ["sinkhorn", *EXACT])
def test_copies_of_one_stream_give_no_gradient_in_pytorch(chart):
    """To rounding, by automatic differentiation."""
    import torch

    from mhc_exp.torch import charts as in_torch

    g = np.random.default_rng(0).normal(size=(4, 1))
    logits = torch.tensor(draw(chart, seed=1, count=1).T, requires_grad=True)
    matrix = in_torch.chart(logits, 4, spec(chart, solver="newton"))
    (matrix[..., 0] * torch.tensor(g @ np.ones((1, 4)))).sum().backward()
    assert logits.grad is not None
    assert np.abs(logits.grad.numpy()).max() < 1e-14


# --- relabelling ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chart", ["free", "exp", "sinkhorn", "row_softmax", "column_softmax"])
@given(seed=SEEDS)
@settings(max_examples=10, deadline=None)
def test_relabelling_the_streams_relabels_the_logits(chart, seed):
    """Structured charts know their streams by number (neighbours, pairs, which comes first): not for them."""
    order = np.random.default_rng(seed).permutation(4)
    z = draw(chart, seed, count=1)[0].reshape(4, 4)
    renamed = z[order][:, order].reshape(-1)
    expected = reference.chart(z.reshape(-1), 4, spec(chart))[order][:, order]
    np.testing.assert_allclose(reference.chart(renamed, 4, spec(chart)), expected, rtol=1e-12)


def test_relabelling_the_streams_of_mhc_lite_conjugates_its_permutations():
    import itertools

    orders = list(itertools.permutations(range(4)))
    rename = (2, 0, 3, 1)
    back = tuple(np.argsort(rename))
    z = draw("permutation", seed=3, count=1)[0]
    renamed = np.empty_like(z)
    for place, order in enumerate(orders):
        renamed[orders.index(tuple(back[order[rename[i]]] for i in range(4)))] = z[place]
    expected = reference.chart(z, 4, spec("permutation"))[list(rename)][:, list(rename)]
    np.testing.assert_allclose(reference.chart(renamed, 4, spec("permutation")), expected, atol=1e-14)


# --- leak ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chart", ["circulant", "permutation", "sinkhorn"])
@given(seed=SEEDS, depth=st.integers(4, 64), budget=st.floats(0.1, 4.0))
@settings(max_examples=10, deadline=None)
def test_a_budget_keeps_the_smallest_singular_value_above_its_floor_at_any_depth(chart, seed, depth, budget):
    """C-mHC's theorem, sigma_min >= exp(-beta - beta^2 / L), holds for any doubly stochastic chart: |H - I| <= 2 g."""
    layers = 2 * depth
    share = mixing_share(spec(chart, budget=budget), layers)
    assert share == min(1, budget / (2 * layers))
    product = np.eye(4)
    for matrix in reference.chart(draw(chart, seed, count=layers, spread=3.0), 4, spec(chart, solver="newton")):
        product = ((1 - share) * np.eye(4) + share * matrix) @ product
    if share <= 0.25:
        assert np.linalg.svd(product, compute_uv=False)[-1] >= np.exp(-budget - budget**2 / layers)


# --- published numbers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("variant", "published"), [("mhc", 1_843_200), ("mhc_lite", 2_433_024), ("kromhc", 958_464)])
def test_the_parameter_counts_of_the_papers_are_projections_and_the_weight_of_their_norm(variant, published):
    """KromHC's table for 12 blocks, C = 768, n = 4. It leaves out biases and scales; we absorb the norm's weight."""
    shapes = parameter_shapes(compose([f"variant={variant}"]).variant, 768)
    connections, norm_weight = 24, 4 * 768
    assert connections * (int(np.prod(shapes["weight"])) + norm_weight) == published
    ours = connections * sum(int(np.prod(shape)) for shape in shapes.values())
    assert ours == published - connections * (norm_weight - shapes["bias"][0] - shapes["scale"][0])


@pytest.mark.parametrize(
    ("variant", "diagonal"),
    [("mhc", 0.99899), ("mhc_lite", 0.9940), ("kromhc", 0.9993), ("go_mhc", 0.9990), ("ohc", 1.0), ("c_mhc", 0.25)],
)
def test_initial_diagonals_of_the_repositories(variant, diagonal):
    """c_mhc before its leak, which makes it 1 - 3/4 g."""
    chosen = compose([f"variant={variant}"]).variant
    logits = initial_logits(chosen.mix, 4, *PRESETS[chosen.init].mix)
    np.testing.assert_allclose(np.diag(reference.chart(logits, 4, chosen.mix)), diagonal, atol=6e-5)


def test_tbp_starts_half_way_through_every_interval():
    matrix = reference.chart(np.zeros(9), 4, spec("transport"))
    np.testing.assert_allclose(matrix[0], [1 / 2, 1 / 4, 1 / 8, 1 / 8])


# --- what the configuration knows ----------------------------------------------------------------------------------


@pytest.mark.parametrize("chart", CHARTS)
def test_every_chart_is_reached_from_mhc_by_one_key(chart):
    config = compose(["variant=mhc", f"variant.mix.chart={chart}"])
    problems = [problem for problem in variant_problems(config) if chart != "free" or problem.path != "variant.init"]
    assert problems == []
    assert initial_parameters(config, 16)["topology.connections.0.bias"].shape == (8 + CHARTS[chart].logits(4, 2),)


@pytest.mark.parametrize("chart", FROM_LOGITS)
def test_a_chart_that_costs_something_says_so(chart):
    fixed = compose(["variant=mhc", f"variant.mix.chart={chart}", "variant.coefficients=static"]).variant
    moving = compose(["variant=mhc", f"variant.mix.chart={chart}"]).variant
    assert flops_per_token(moving, 64, 2) > flops_per_token(fixed, 64, 2)
    assert CHARTS[chart].flops(4, MIX) > 0 or chart == "free"
    assert CHARTS[chart].legal(4, 2)
