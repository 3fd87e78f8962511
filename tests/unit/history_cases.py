"""Tiny models with a history: what the tests of these wirings share."""

from __future__ import annotations

import numpy as np

from mhc_exp.body import reference as body
from mhc_exp.body.parameters import initial_parameters, is_connection
from mhc_exp.config.compose import compose

WIDTH, DEPTH, VOCABULARY = 8, 3, 13
TINY = ["model.width=8", "model.heads=2", "model.d_ff=12", "model.seq_len=6", "model.norm_eps=1e-9"]


def tiny(*overrides, depth=DEPTH):
    return compose([*TINY, f"depth={depth}", *overrides])


def parameters(config, size=0.0, seed=1):
    """float64 initial values, the connections moved by uniform noise."""
    random = np.random.default_rng(seed)
    values = initial_parameters(config, VOCABULARY)
    return {
        name: value.astype(np.float64) + (random.uniform(-size, size, value.shape) if is_connection(name) else 0.0)
        for name, value in values.items()
    }


def logits(config, values, tokens):
    return body.logits(values, config, tokens)


def tokens(seed=0, sequences=2):
    return np.random.default_rng(seed).integers(0, VOCABULARY, (sequences, 6)).astype(np.int32)
