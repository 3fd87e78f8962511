"""DenseFormer: depth-weighted averages after blocks (arXiv:2402.02622)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mhc_exp.config.history_variants import DenseFormer
from mhc_exp.topology.history.denseformer import sources
from mhc_exp.topology.reference.arithmetic import Parameters, SourceObserver, Sublayer, unobserved, with_residuals


def forward(
    x0: np.ndarray,
    sublayers: Sequence[Sublayer],
    parameters: Parameters,
    variant: DenseFormer,
    observe: SourceObserver = unobserved,
) -> np.ndarray:
    """X_i = B_i(Y_(i-1)), Y_i = sum_j alpha_ij X_j over j = i, i - k, ... if p divides i, else X_i (section 3)."""
    outputs, x = [x0], x0
    indices = sources(variant, len(sublayers) // 2)
    for block, (attention, mlp) in enumerate(zip(sublayers[::2], sublayers[1::2], strict=True)):
        x = with_residuals((attention, mlp))(x)
        outputs.append(x)
        alpha = parameters.get(f"connections.{block}.weight", np.ones(1))
        observe(alpha[None, :, None])
        if indices[block]:
            x = sum((weight * outputs[j] for weight, j in zip(alpha, indices[block], strict=True)), np.zeros_like(x))
    return x
