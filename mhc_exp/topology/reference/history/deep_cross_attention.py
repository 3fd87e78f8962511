"""DeepCrossAttention: query, key and value each read all earlier outputs (arXiv:2502.06785)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mhc_exp.config.history_variants import DeepCrossAttention
from mhc_exp.topology.reference.arithmetic import Parameters, SourceObserver, Sublayer, below, unobserved
from mhc_exp.topology.reference.history.blocks import attend, blocks


def forward(
    x0: np.ndarray,
    sublayers: Sequence[Sublayer],
    parameters: Parameters,
    variant: DeepCrossAttention,
    observe: SourceObserver = unobserved,
) -> np.ndarray:
    """A block outputs a + MLP(q + a), a = attention(q, k, v): without q, which the reads bring along. One more read
    makes the hidden state of the head.
    """
    outputs = [x0]
    for block, (attention, mlp) in enumerate(blocks(sublayers)):
        query, key, value = read(visible(outputs, variant.last), below(f"connections.{block}.", parameters), observe)
        attended = attend(attention, query, key, value)
        outputs.append(attended + mlp(query + attended))
    return read(visible(outputs, variant.last), below(f"connections.{len(outputs) - 1}.", parameters), observe)[0]


def visible(outputs: list[np.ndarray], last: int | None) -> list[np.ndarray]:
    """All outputs, or the embedding, the sum of those between, and the last k (k-DCA)."""
    if last is None or len(outputs) <= last + 2:
        return outputs
    return [outputs[0], sum(outputs[1:-last], np.zeros(())), *outputs[-last:]]


def read(sources: Sequence[np.ndarray], parameters: Parameters, observe: SourceObserver = unobserved) -> np.ndarray:
    """GRN-v3, all ways [W, B, T, C]: (G * (b + ReLU(w^T G))) 1; without w, GRN-v2.

    Weights are per channel; an observer is given the mean of their absolute values over the channels.
    """
    weights = parameters["bias"][:, :, None, None]  # [W, sources, 1, 1, C]
    if "weight" in parameters:
        scores = np.einsum("sbtc,wc->wsbt", np.stack(sources), parameters["weight"])
        weights = weights + np.maximum(scores, 0)[..., None]
    observe(np.abs(weights).mean(axis=-1).reshape(*weights.shape[:2], -1))
    return sum((weights[:, index] * source for index, source in enumerate(sources)), np.zeros(()))
