"""mhc 0.5.5 against our `history`: learned mixing of the last states. Its matrix form is not ours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from other_code import WIDTH, agreement, apart, called, imported, linear, named

from mhc_exp.config.compose import compose
from mhc_exp.topology import reference
from mhc_exp.topology.history.mixing import shapes

pytestmark = pytest.mark.independent
BATCH = (2, 5, WIDTH)
SUBLAYERS, WINDOW = 6, 3


def started(options, random):
    """(variant, random parameters, sublayers)."""
    variant = compose(["variant=history", f"variant.window={WINDOW}", *options]).variant
    parameters = {}
    for index, one in enumerate(shapes(variant, WIDTH, SUBLAYERS // 2)):
        parameters |= named(one, random, f"topology.connections.{index}.")
    return variant, parameters, [linear(random) for _ in range(SUBLAYERS)]


@pytest.mark.parametrize(("ours", "constraint"), [("simplex", "simplex"), ("identity_preserving", "identity")])
def test_history_mixing_is_that_of_mhc(ours, constraint, random, digits):
    """Its logits and history are oldest first, ours newest first."""
    package = imported("mhc.layers.mhc_skip")
    variant, parameters, branches = started([f"variant.constraint={ours}"], random)
    skip = package.MHCSkip(mode="mhc", max_history=WINDOW, constraint=constraint, epsilon=variant.floor)

    def code(x, leaves):
        history = [x]
        for index, branch in enumerate(branches):
            logits = leaves.get(f"topology.connections.{index}.logits", torch.zeros(1, dtype=x.dtype))
            history.append(called(skip, {"mixing_logits": logits.flip(0)}, branch(history[-1]), history))
        return history[-1]

    found = agreement(variant, branches, parameters, code, random.normal(size=BATCH))
    digits(f"`history`, {ours}", "mhc", "MHCSkip", "six sublayers, H = 3, float64", found)
    assert found.within(1e-10)


def test_the_matrix_of_mhc_ends_with_columns_and_acts_by_one_row(random):
    """Ours ends with rows, and its other rows are what is remembered; there the history is no output."""
    package = imported("mhc.layers.matrix_skip")
    skip = package.MatrixMHCSkip(max_history=WINDOW, iterations=1)
    logits, states = random.normal(size=(WINDOW, WINDOW)), random.normal(size=(WINDOW, *BATCH))
    zero = torch.zeros(BATCH, dtype=torch.float64)
    weights = {"mixing_logits": torch.from_numpy(logits)}
    mixed = called(skip, weights, zero, list(torch.from_numpy(states))).detach()

    def ours(order):
        return np.tensordot(reference.sinkhorn(logits, 1, order)[-1], states, 1)

    assert apart(ours("columns_last"), mixed).within(1e-8)
    assert apart(ours("rows_last"), mixed).output > 1e-2
