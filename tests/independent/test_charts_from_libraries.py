"""Charts of H_res against matrices of other libraries: Cayley's transform, quaternions, Kronecker, permutations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from other_code import STREAMS, apart, imported, theirs

from mhc_exp.config.compose import compose
from mhc_exp.topology import reference

pytestmark = pytest.mark.independent
COUNT = 20


def ours(name, logits, *options):
    variant = compose([f"variant={name}", *options]).variant
    return reference.chart(logits, variant.streams, variant.mix)


def their_rotation(size, logits):
    """Cayley's transform of sparse-hyper-connections, one matrix."""
    layer = theirs("shc", "layers/cayley.py").CayleyTransform(size).double()
    with torch.no_grad():
        layer.params.copy_(torch.from_numpy(logits))
    return layer().detach().numpy()


def test_rotations_are_those_of_sparse_hyper_connections(random, digits):
    logits = random.normal(size=(COUNT, STREAMS * (STREAMS - 1) // 2))
    found = apart(ours("mhc", logits, "variant.mix.chart=cayley"), [their_rotation(STREAMS, one) for one in logits])
    digits("chart `cayley`", "sparse-hyper-connections", "CayleyTransform", f"{COUNT} matrices, float64", found)
    assert found.within(1e-12)


@pytest.mark.parametrize("expansion", [1, 2, 3])
def test_go_mhc_is_made_of_the_rotations_of_sparse_hyper_connections(expansion, random, digits):
    """Mean over the s rows, sum over the s columns of every block of squares."""
    size = expansion * STREAMS
    logits = random.normal(size=(COUNT, size * (size - 1) // 2))
    squares = [torch.from_numpy(their_rotation(size, one) ** 2)[None, None] for one in logits]
    pooled = [expansion * torch.nn.functional.avg_pool2d(square, expansion)[0, 0] for square in squares]
    found = apart(ours("go_mhc", logits, f"variant.mix.expansion={expansion}"), np.stack(pooled))
    what = f"{COUNT} matrices, s = {expansion}, float64"
    digits("`go_mhc`", "sparse-hyper-connections", "CayleyTransform, pooled by PyTorch", what, found)
    assert found.within(1e-12)


def test_ohc_turns_quaternions_as_pyquaternion_does(random, digits):
    quaternion = imported("pyquaternion").Quaternion
    logits, states = random.normal(size=(COUNT, 8)), random.normal(size=(COUNT, 4))

    def turned(raw, x):
        q, r = (quaternion(half + np.eye(4)[0]).normalised for half in np.split(raw, 2))
        return (q * quaternion(x) * r.conjugate).elements

    mixed = np.einsum("kij,kj->ki", ours("ohc", logits, "variant.mix.eps=0.0"), states)
    found = apart(mixed, [turned(*pair) for pair in zip(logits, states, strict=True)])
    digits("`ohc`", "pyquaternion", "q * x * r.conjugate", f"{COUNT} vectors, float64", found)
    assert found.within(1e-12)


def test_kromhc_is_pytorchs_kronecker_product(random, digits):
    logits = random.normal(size=(COUNT, 6))

    def product(raw):
        factors = [torch.stack([pair.softmax(0), pair.softmax(0).flip(0)]) for pair in torch.from_numpy(raw).split(2)]
        return torch.kron(torch.kron(factors[0], factors[1]), factors[2])

    found = apart(ours("kromhc", logits, "variant.streams=8"), np.stack([product(raw) for raw in logits]))
    digits("`kromhc`", "torch", "kron", f"{COUNT} matrices, n = 8, float64", found)
    assert found.within(1e-12)


@pytest.mark.parametrize("streams", [3, 4])
def test_mhc_lite_averages_sympys_permutations_in_their_order(streams, random, digits):
    combinatorics = imported("sympy.combinatorics")
    group = [combinatorics.Permutation.unrank_lex(streams, rank) for rank in range(int(np.prod(range(1, streams + 1))))]
    matrices = torch.tensor([[[float(one(i) == j) for j in range(streams)] for i in range(streams)] for one in group])
    logits = random.normal(size=(COUNT, len(group)))
    weights = torch.from_numpy(logits).softmax(-1)
    found = apart(
        ours("mhc_lite", logits, f"variant.streams={streams}"), torch.tensordot(weights, matrices.double(), 1)
    )
    digits("`mhc_lite`", "sympy", "combinatorics.Permutation", f"{COUNT} matrices, n = {streams}, float64", found)
    assert found.within(1e-12)
