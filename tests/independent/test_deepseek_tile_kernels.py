"""tile-kernels (DeepSeek's PyTorch reference) against ours: coefficients, streams and read-out of `deepseek_v4`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from other_code import STREAMS, WIDTH, apart, connection, own, single, theirs

from mhc_exp.config.compose import compose
from mhc_exp.topology import reference
from mhc_exp.topology.layout import readout_shapes

pytestmark = pytest.mark.independent
PACKAGE, FILE = "tile-kernels", "torch/mhc.py"


def test_mhc_of_the_paper_is_deepseeks_projection_with_lucidrains_sinkhorn(random, digits):
    """The paper's coefficients differ from DeepSeek's in eps and Sinkhorn alone."""
    package = theirs("tile_kernels", FILE)
    sinkhorn = theirs("hyper_connections", "manifold_constrained_hyper_connections.py").sinkhorn_knopps
    variant = compose(["variant=mhc"]).variant
    values = own(connection(variant, random))
    x = random.normal(size=(2, 5, STREAMS, WIDTH))
    mixes = package.mhc_pre_norm_fn_ref(single(x), single(values["weight"]), None, 1e-6)
    scale, base = single(values["scale"]), single(values["bias"])
    pre, post, logits = package.mhc_pre_split_mixes_ref(mixes, scale, base, STREAMS, 2.0, 0.0)
    their = {"H_pre": pre[..., 0], "H_post": post[..., 0], "H_res": sinkhorn(logits, 20)}
    for (name, value), ours in zip(their.items(), reference.coefficients(x, values, variant), strict=True):
        found = apart(ours, value)
        digits("`mhc`, dynamic", PACKAGE, FILE, f"{name}, Sinkhorn of hyper-connections, float32", found)
        assert found.within(1e-5)


@pytest.fixture
def deepseek(random):
    """(their file, variant, random parameters with a read-out, streams in float32)."""
    variant = compose(["variant=deepseek_v4"]).variant
    parameters = connection(variant, random)
    for name, shape in readout_shapes(variant, WIDTH).items():
        parameters[f"topology.readout.{name}"] = random.normal(size=shape)
    parameters = {name: value.astype(np.float32).astype(np.float64) for name, value in parameters.items()}
    x = random.normal(size=(2, 5, STREAMS, WIDTH)).astype(np.float32)
    return theirs("tile_kernels", FILE), variant, parameters, x


def their_coefficients(package, parameters, x):
    values = own(parameters)
    mixes = package.mhc_pre_norm_fn_ref(torch.from_numpy(x), single(values["weight"]), None, 1e-6)
    scale, base = single(values["scale"]), single(values["bias"])
    pre, post, logits = package.mhc_pre_split_mixes_ref(mixes, scale, base, STREAMS, 2.0, 1e-6)
    return pre, post, package.sinkhorn_normalize_ref(logits, repeat=20, eps=1e-6)


def test_deepseeks_coefficients_are_those_of_tile_kernels(deepseek, digits):
    package, variant, parameters, x = deepseek
    pre, post, combination = their_coefficients(package, parameters, x)
    read, write, mix = reference.coefficients(x.astype(np.float64), own(parameters), variant)
    sides = {
        "H_pre": (read, pre[..., 0]),
        "H_post": (write, post[..., 0]),
        "H_res": (mix.swapaxes(-1, -2), combination),
    }
    for name, (ours, value) in sides.items():
        found = apart(ours, value)
        digits("`deepseek_v4`, dynamic", PACKAGE, FILE, f"{name}, float32", found)
        assert found.within(1e-5)


def test_deepseeks_streams_are_those_of_tile_kernels(deepseek, random, digits):
    """To bfloat16, in which their reference returns them."""
    package, variant, parameters, x = deepseek
    pre, post, combination = their_coefficients(package, parameters, x)
    read, write, mix = reference.coefficients(x.astype(np.float64), own(parameters), variant)
    y = random.normal(size=(2, 5, WIDTH)).astype(np.float32)
    written = np.einsum("...ij,...jc->...ic", mix, x) + write[..., None] * y[..., None, :]
    after = package.mhc_post_ref(torch.from_numpy(y), torch.from_numpy(x), post, combination).float()
    taken = package.mhc_pre_apply_mix_ref(torch.from_numpy(x), pre).float()
    np.testing.assert_allclose(written, after, rtol=2**-7, atol=2**-9)
    np.testing.assert_allclose(np.einsum("...s,...sc->...c", read, x), taken, rtol=2**-7, atol=2**-9)
    digits("`deepseek_v4`, streams", PACKAGE, FILE, "after a connection, bfloat16", apart(written, after))


def test_deepseeks_read_out_is_that_of_tile_kernels(deepseek, digits):
    package, variant, parameters, x = deepseek
    values = {name.removeprefix("topology."): value for name, value in parameters.items() if "readout" in name}
    mixes = package.mhc_pre_norm_fn_ref(torch.from_numpy(x), single(values["readout.weight"]), None, 1e-6)
    scale, base = single(values["readout.scale"]), single(values["readout.bias"])
    weights = package.mhc_head_compute_mix_ref(mixes, scale, base, 1e-6)
    expected = np.einsum("...s,...sc->...c", weights.double().numpy(), x.astype(np.float64))
    found = apart(reference.streams.reduce(x.astype(np.float64), values, variant), expected)
    digits("`deepseek_v4`, read-out", PACKAGE, FILE, "final hidden state, float32", found)
    assert found.within(1e-5)
