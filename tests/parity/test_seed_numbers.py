"""The seed demo's published numbers (softwarewrighter/mHC-poc), and where they come from."""

from __future__ import annotations

import math

import cases
import numpy as np
import pytest

from mhc_exp.topology.diagnosis import summarise
from mhc_exp.topology.reference import sinkhorn

PROXY = {
    ("demo_hc", 12): 6.389, ("demo_hc", 24): 13.373, ("demo_hc", 48): 27.347,
    ("demo_mhc", 12): -0.598, ("demo_mhc", 24): -0.602, ("demo_mhc", 48): -0.602,
}  # fmt: skip


@pytest.mark.parametrize("backend", cases.TRAINERS)
@pytest.mark.parametrize(("variant", "depth"), PROXY)
def test_gain_proxy_at_initialisation(variant, depth, backend):
    config = cases.tiny([f"variant={variant}", f"depth={depth}"])
    columns = summarise(cases.TRAINERS[backend](config).diagnose(cases.batch()))
    assert columns["gain/proxy_log10_max_entry"] == pytest.approx(PROXY[variant, depth], abs=6e-4)


def test_those_gains_are_arithmetic_of_the_initial_value_not_training():
    logits = 2 * np.eye(4) - 1
    row_sum = np.exp(logits).sum(axis=1)[0]
    assert row_sum == pytest.approx(math.e + 3 / math.e) == pytest.approx(3.822, abs=1e-3)
    other_eigenvalue = math.e - 1 / math.e
    for depth in (12, 24, 48):
        largest_entry = (row_sum**depth + 3 * other_eigenvalue**depth) / 4
        assert PROXY["demo_hc", depth] == pytest.approx(math.log10(largest_entry), abs=1e-3)
    product = np.linalg.matrix_power(sinkhorn(logits, order="columns_last"), 48)
    assert math.log10(product.max()) == pytest.approx(math.log10(1 / 4), abs=1e-6)


def test_demo_mhc_computes_one_plain_network():
    """x <- 2x + f: every connection of demo_mhc at step 0 acts on identical streams as the same scalar recursion."""
    config = cases.tiny(["variant=demo_mhc"])
    diagnosis = cases.torch_trainer(config).diagnose(cases.batch())
    np.testing.assert_allclose(diagnosis.write, 1.0, atol=1e-6)
    np.testing.assert_allclose(diagnosis.read, 0.25, atol=1e-6)
    np.testing.assert_allclose(diagnosis.mix.sum(-1), 1.0, atol=1e-6)
