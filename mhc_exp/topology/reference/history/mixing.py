"""Learned mixing of the last H states: x_(l+1) = sum_k a_k x_(l-k) + F(x_l)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mhc_exp.config.history_variants import History
from mhc_exp.topology.reference.arithmetic import Parameters, SourceObserver, Sublayer, softmax, unobserved
from mhc_exp.topology.reference.charts import sinkhorn


def forward(
    x0: np.ndarray,
    sublayers: Sequence[Sublayer],
    parameters: Parameters,
    variant: History,
    observe: SourceObserver = unobserved,
) -> np.ndarray:
    """The history holds the states after every sublayer (x_0: embedding), newest first, at most H of them.

    Vector weights mix them into the next state. A doubly stochastic matrix makes h states of h, of which row 0 is the
    next state before F is added, and rows 0, 1, ... are what is remembered behind it. The last row of a full history
    has no place left: since columns sum to one, it says how much of every state is forgotten.
    """
    history = [x0]
    for index, sublayer in enumerate(sublayers):
        weights = mixing_weights(parameters.get(f"connections.{index}.logits"), variant)
        observe(weights[:1, :, None])
        mixed = list(np.tensordot(weights, np.stack(history), 1))  # one state per row
        state = mixed[0] + sublayer(history[0])
        remembered = mixed if variant.constraint == "doubly_stochastic" else history
        history = [state, *remembered][: variant.window]
    return history[0]


def mixing_weights(logits: np.ndarray | None, variant: History) -> np.ndarray:
    """[h, h] doubly stochastic, or [1, h] on the simplex; a single state has no logits and the weight 1."""
    if logits is None:
        return np.ones((1, 1))
    if variant.constraint == "doubly_stochastic":
        return sinkhorn(logits, variant.iterations, order="rows_last")
    weights = softmax(logits)[None]
    if variant.constraint == "identity_preserving":
        weights = (1 - variant.floor) * weights + variant.floor * np.eye(1, len(logits))
    return weights
