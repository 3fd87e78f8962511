"""mhc-mlx against ours: static mHC that ends Sinkhorn with columns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from other_code import STREAMS, WIDTH, Branch, InNumpy, apart, theirs

from mhc_exp.config.compose import compose
from mhc_exp.topology import reference

pytestmark = pytest.mark.independent


def test_static_mhc_is_that_of_mhc_mlx_which_ends_with_columns(random, digits):
    """Its F is an RMS norm. The paper's equation 9 ends with rows: the two differ once logits are spread."""
    import mlx.core as mx

    package = theirs("mhc_mlx", "reference.py")
    options = ["variant=mhc", "variant.coefficients=static"]
    x0, weight = random.normal(size=(3, 1, WIDTH)), random.normal(size=WIDTH)
    bias = np.concatenate([random.normal(size=2 * STREAMS), random.normal(scale=3.0, size=STREAMS**2)])

    def norm(x):
        return x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-5) * torch.from_numpy(weight)

    def ours(*extra):
        parameters = {"topology.connections.0.bias": bias}
        return reference.forward(x0, [InNumpy(Branch(norm))], parameters, compose([*options, *extra]).variant)[:, 0]

    arguments = (x0.repeat(STREAMS, axis=1), *np.split(bias, [STREAMS, 2 * STREAMS]))
    expanded, read, write, logits = (mx.array(value.astype(np.float32)) for value in arguments)
    square = logits.reshape(STREAMS, STREAMS)
    their = package.mhc_forward_reference(expanded, read, write, square, mx.array(weight.astype(np.float32)))
    # replicated streams: the sum over streams sees the row sums, which are what the order decides
    after = apart(ours("variant.mix.order=columns_last"), np.array(their).sum(1))
    matrix, mixed = bias[2 * STREAMS :].reshape(STREAMS, STREAMS), np.array(package.mixing_matrix_from_logits(square))
    mixing = apart(reference.sinkhorn(matrix, order="columns_last"), mixed)
    digits("`mhc`, static, `mix.order=columns_last`", "mhc-mlx", "reference.py", "H_res, float32", mixing)
    digits("the same", "mhc-mlx", "reference.py", "sum of streams after a connection, float32", after)
    assert after.within(1e-5)
    assert mixing.within(1e-5)
    assert apart(reference.sinkhorn(matrix), mixed).output > 1e-5
