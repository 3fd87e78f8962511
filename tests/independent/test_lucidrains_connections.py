"""hyper-connections (lucidrains) against ours: dynamic hyper-connections, Frac-Connections, Sinkhorn, its mHC."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from other_code import STREAMS, WIDTH, InNumpy, Method, agreement, apart, called, connection, linear, named, own, theirs
from torch import nn

from mhc_exp.config.compose import compose
from mhc_exp.topology import reference
from mhc_exp.topology.segments import connection_shapes

pytestmark = pytest.mark.independent
PACKAGE = "hyper-connections"


def hyper(file="hyper_connections.py"):
    return theirs("hyper_connections", file)


def layer_norm(layer, width):
    """`layer` with the papers' norm in place of its RMSNorm."""
    layer.norm = nn.LayerNorm(width, eps=1e-6)
    return layer.double()


def test_dynamic_hyper_connections_are_those_of_lucidrains(random, digits):
    package, variant = hyper(), compose(["variant=hc"]).variant
    parameters = connection(variant, random, 0) | connection(variant, random, 1)
    branches = [linear(random), linear(random)]
    layers = [layer_norm(package.HyperConnections(STREAMS, dim=WIDTH, layer_index=index), WIDTH) for index in range(2)]
    expand, reduce = package.get_expand_reduce_stream_functions(STREAMS)

    def code(x, leaves):
        x = expand(x)
        for index, (layer, branch) in enumerate(zip(layers, branches, strict=True)):
            taken, add = called(layer, dynamic_weights(own(leaves, index)), x)
            x = add(branch(taken))
        return reduce(x)

    found = agreement(variant, branches, parameters, code, random.normal(size=(2, 5, WIDTH)))
    digits("`hc`, dynamic, n = 4", PACKAGE, "HyperConnections", "two connections, float64", found)
    assert found.within(1e-10)


def dynamic_weights(values):
    """Our parameters of one connection as theirs."""
    read, write, mix = values["bias"].split([STREAMS, STREAMS, STREAMS**2])
    return {
        "norm.weight": values["norm.weight"],
        "norm.bias": values["norm.bias"],
        "static_alpha": torch.cat([read[:, None], mix.view(STREAMS, STREAMS)], dim=1),
        "static_beta": write,
        "dynamic_alpha_fn": torch.cat([values["weight"][:1], values["weight"][2:]]).T,
        "dynamic_beta_fn": values["weight"][1],
        "dynamic_alpha_scale": values["scale"][0],
        "dynamic_beta_scale": values["scale"][1],
    }


@pytest.fixture(params=[2, 4])
def fractions(request):
    return request.param


def frac(fractions, *options):
    return compose(
        ["variant=frac", f"variant.segments={fractions}", f"variant.fractions={fractions}", *options]
    ).variant


def frac_weights(values, fractions):
    """Ours as theirs: a row of coefficients each for read, write and mixing; columns of theirs alternate between the
    input of the sublayer and the mixing, because it splits them by fraction first.
    """
    parts = [fractions, values["bias"].shape[0] - 2 * fractions, fractions]
    read, write, mix = values["bias"].split(parts)
    alternating = torch.stack([read.T, mix.T], dim=-1).flatten(1)  # [source, 2 m]
    read_weight, write_weight, mix_weight = values["weight"].split(parts)
    return {
        "norm.weight": values["norm.weight"],
        "norm.bias": values["norm.bias"],
        "static_alpha": alternating,
        "static_beta": write[0],
        "dynamic_alpha_fn": torch.stack([read_weight, mix_weight], dim=1).flatten(0, 1).T,
        "dynamic_beta_fn": write_weight[0][:, None].expand(-1, fractions),
        "dynamic_alpha_scale": values["scale"][0],
        "dynamic_beta_scale": values["scale"][1],
    }


def test_frac_connections_have_the_coefficients_of_lucidrains(fractions, random, digits):
    """Read and mixing as it applies them; of its write weights [part, fraction] the diagonal, which is the paper's."""
    package, variant, width = hyper(), frac(fractions), WIDTH // fractions
    layers = [layer_norm(package.HyperConnections(1, dim=WIDTH, num_fracs=fractions), width) for _ in range(2)]
    branches = [linear(random), linear(random)]
    parameters = {}
    for index in range(2):
        parameters |= named(connection_shapes(variant, WIDTH), random, f"topology.connections.{index}.")

    def code(x, leaves):
        for index, (layer, branch) in enumerate(zip(layers, branches, strict=True)):
            weights = {f"module.{name}": value for name, value in frac_weights(own(leaves, index), fractions).items()}
            taken, rest, depth = called(Method(layer, "width_connection"), weights, x)
            write = depth["beta"][..., 0, :].diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
            x = rest + (write * branch(taken).unflatten(-1, (fractions, width))).flatten(-2)
        return x

    found = agreement(variant, branches, parameters, code, random.normal(size=(2, 5, WIDTH)))
    what = f"two connections, m = {fractions}, diagonal of its write, float64"
    digits("`frac`, dynamic", PACKAGE, "HyperConnections, num_fracs", what, found)
    assert found.within(1e-10)


def test_lucidrains_writes_every_part_to_every_fraction(fractions, random):
    """Equations 6 and 8 of the paper give fraction j its own part, times beta_j. Its write is the full one, with rows
    that are equal up to the dynamic part.
    """
    package = hyper()
    layer = layer_norm(package.HyperConnections(1, dim=WIDTH, num_fracs=fractions), WIDTH // fractions)
    variant = frac(fractions, "variant.coefficients=static", "variant.write=full")
    shape = connection_shapes(variant, WIDTH)["bias"]
    bias = random.normal(size=shape)
    bias[fractions : 2 * fractions] = bias[fractions]
    values = {"bias": torch.from_numpy(bias)}
    x0, branches = random.normal(size=(2, 5, WIDTH)), [linear(random)]
    read, write, mix = values["bias"].split([fractions, fractions, fractions])
    weights = {"static_alpha": torch.stack([read.T, mix.T], dim=-1).flatten(1), "static_beta": write[0]}
    taken, add = called(layer, weights, torch.from_numpy(x0))
    found = add(branches[0](taken)).detach()
    parameters = {"topology.connections.0.bias": bias}

    def ours(variant):
        return reference.forward(x0, [InNumpy(branches[0])], parameters, variant)

    np.testing.assert_allclose(ours(variant), found, rtol=1e-10, atol=1e-12)
    diagonal = frac(fractions, "variant.coefficients=static")
    parameters["topology.connections.0.bias"] = np.delete(bias, slice(fractions + 1, 2 * fractions), axis=0)
    assert np.abs(ours(diagonal) - found.numpy()).max() > 0.1


def test_untrained_frac_connections_of_lucidrains_are_not_the_residual(random):
    """Equation 15: read part j from fraction j. There every part starts from the same fractions."""
    package = hyper()
    layer = package.HyperConnections(1, dim=WIDTH, num_fracs=2, layer_index=0).double()
    x = torch.from_numpy(random.normal(size=(2, 5, WIDTH)))
    taken, _ = layer(x)
    assert (taken - x).abs().max() > 0.1


def test_sinkhorn_of_the_paper_is_that_of_lucidrains(random, digits):
    package = hyper("manifold_constrained_hyper_connections.py")
    logits = random.normal(size=(100, STREAMS, STREAMS))
    ours = reference.sinkhorn(logits, 20)
    for name in ("sinkhorn_knopps", "log_domain_sinkhorn_knopps"):
        found = apart(ours, getattr(package, name)(torch.from_numpy(logits), 20))
        digits("Sinkhorn, rows last", PACKAGE, name, "100 matrices, float32", found)
        assert found.within(1e-6)


def test_lucidrains_applies_the_transpose_of_the_papers_mixing(random):
    """Rows are normalised last and summed over, so its forward gain is the one that carries the truncation."""
    package = hyper("manifold_constrained_hyper_connections.py")
    layer = package.ManifoldConstrainedHyperConnections(STREAMS, dim=WIDTH, layer_index=0)
    logits = torch.from_numpy(3 * random.normal(size=(STREAMS, STREAMS))).float()
    with torch.no_grad():
        layer.static_alpha[:, 1:] = logits
    x = random.normal(size=(STREAMS, 3, WIDTH)).astype(np.float32)
    _, mixed, _ = layer.width_connection(torch.from_numpy(x))
    matrix = reference.sinkhorn(logits.double().numpy(), 20)
    np.testing.assert_allclose(mixed.detach(), np.einsum("st,snc->tnc", matrix, x), atol=1e-5)
    assert np.abs(mixed.detach().numpy() - np.einsum("ts,snc->tnc", matrix, x)).max() > 0.1
