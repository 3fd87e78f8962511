"""Value residual learning, ResFormer (arXiv:2410.17897)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mhc_exp.config.history_variants import ValueResidual
from mhc_exp.topology.history.value_residual import mixes
from mhc_exp.topology.reference.arithmetic import Parameters, SourceObserver, Sublayer, unobserved
from mhc_exp.topology.reference.history.blocks import blocks


def forward(
    x0: np.ndarray,
    sublayers: Sequence[Sublayer],
    parameters: Parameters,
    variant: ValueResidual,
    observe: SourceObserver = unobserved,
) -> np.ndarray:
    """The pre-norm residual with V_n = lambda_1 V_1 + lambda_2 H_(n-1) W_n^V from block `start` on."""
    x, first = x0, np.zeros(())
    for block, (attention, mlp) in enumerate(blocks(sublayers)):
        hidden = attention.norm(x)
        q, k, v = attention.project(hidden, hidden, hidden)
        if block == 0:
            first = v
        weights = (1.0,)
        if mixes(variant, len(sublayers) // 2)[block]:
            weights = lambda_1, lambda_2 = parameters.get(f"connections.{block}.weight", (variant.first, variant.own))
            v = lambda_1 * first + lambda_2 * v
        observe(np.array(weights)[None, :, None])
        x = x + attention.attend(q, k, v)
        x = x + mlp(x)
    return x
