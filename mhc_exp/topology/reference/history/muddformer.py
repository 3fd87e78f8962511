"""MUDDFormer: dynamic dense connections, separately for query, key, value and residual (arXiv:2502.12170)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mhc_exp.config.history_variants import MUDDFormer
from mhc_exp.topology.history.muddformer import WAYS
from mhc_exp.topology.layout import NORM_EPS
from mhc_exp.topology.reference.arithmetic import Parameters, SourceObserver, Sublayer, below, gelu, rms, unobserved
from mhc_exp.topology.reference.history.blocks import attend, blocks


def forward(
    x0: np.ndarray,
    sublayers: Sequence[Sublayer],
    parameters: Parameters,
    variant: MUDDFormer,
    observe: SourceObserver = unobserved,
) -> np.ndarray:
    """h = R + MHA(LN(Q), LN(K), LN(V)), X_i = h + FFN(LN(h)), and Q, K, V, R = DA(X_0 ... X_i) (eq. 7, 8)."""
    outputs, inputs = [x0], [x0] * WAYS
    for block, (attention, mlp) in enumerate(blocks(sublayers)):
        query, key, value, residual = inputs
        x = residual + attend(attention, query, key, value)
        outputs.append(x + mlp(x))
        mixes = dense(outputs, below(f"connections.{block}.", parameters), observe)
        inputs = list(mixes) if len(mixes) == WAYS else [mixes[0]] * WAYS
    return inputs[-1]


def dense(outputs: Sequence[np.ndarray], parameters: Parameters, observe: SourceObserver = unobserved) -> np.ndarray:
    """DA, all ways [W, B, T, C]: sum_j A_j X_j with A = GELU(RMSNorm(X_i) W1) W2 + a (eq. 5, 6).

    The RMSNorm has no weight of its own: W1 absorbs it, and the authors' code has none either.
    """
    weights = parameters["bias"][:, None, None]  # [W, 1, 1, i+1]
    if "hidden" in parameters:
        hidden = gelu(np.einsum("btc,wjc->wbtj", rms(outputs[-1], NORM_EPS), parameters["hidden"]))
        weights = weights + np.einsum("wbtj,wkj->wbtk", hidden, parameters["output"])
    observe(weights.reshape(len(weights), -1, len(outputs)).swapaxes(1, 2))
    return sum((weights[..., j, None] * x for j, x in enumerate(outputs)), np.zeros(()))
