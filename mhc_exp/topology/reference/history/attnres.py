"""Attention Residuals: every sublayer reads a softmax over the outputs before it (arXiv:2603.15031)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mhc_exp.config.history_variants import AttnRes
from mhc_exp.topology.history.attnres import block_size
from mhc_exp.topology.layout import NORM_EPS
from mhc_exp.topology.reference.arithmetic import Parameters, SourceObserver, Sublayer, below, rms, softmax, unobserved


def forward(
    x0: np.ndarray,
    sublayers: Sequence[Sublayer],
    parameters: Parameters,
    variant: AttnRes,
    observe: SourceObserver = unobserved,
) -> np.ndarray:
    """h_l = sum_i softmax_i(w_l . RMSNorm(v_i)) v_i, v_0 the embedding, v_i the output of sublayer i; one more for the
    head. With blocks, v_i is the sum of a finished block, and the sum of the current one is the last source if begun.
    """
    size = block_size(variant, len(sublayers) // 2)
    sources, partial = [x0], []
    for index, sublayer in enumerate(sublayers):
        own = below(f"connections.{index}.", parameters)
        output = sublayer(read([*sources, *partial], own, variant.heads, observe))
        partial = [partial[0] + output] if partial else [output]
        if (index + 1) % size == 0:
            sources, partial = [*sources, *partial], []
    return read([*sources, *partial], below(f"connections.{len(sublayers)}.", parameters), variant.heads, observe)


def read(
    sources: Sequence[np.ndarray], parameters: Parameters, heads: int, observe: SourceObserver = unobserved
) -> np.ndarray:
    """Softmax-weighted sum of sources [B, T, C]; each head of C / heads channels has its own (arXiv:2607.27230).

    The keys are normalised over all C channels, and a head's score is its part of the product with the query.
    """
    if len(sources) == 1:
        observe(np.ones((1, 1, 1)))
        return sources[0]
    values = np.stack(sources)
    keys = rms(values, NORM_EPS) * parameters["key_norm"] * parameters["query"]
    by_head = (*values.shape[:-1], heads, values.shape[-1] // heads)
    scores = keys.reshape(by_head).sum(axis=-1)  # [sources, B, T, heads]
    weights = np.moveaxis(softmax(np.moveaxis(scores, 0, -1)), -1, 0)
    observe(weights.reshape(len(sources), -1, heads).transpose(2, 0, 1))
    return (weights[..., None] * values.reshape(by_head)).sum(axis=0).reshape(values.shape[1:])
