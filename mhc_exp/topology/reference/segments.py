"""Wirings whose state is n segments of width W = C/m (Frac-Connections, arXiv:2503.14125; VWN, arXiv:2511.11238).

`x` is the state [B, T, n, W]; matrices act on the axis of segments. Frac-Connections are n = m with a diagonal write.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mhc_exp.config.variants import Segments
from mhc_exp.topology.layout import NORM_EPS
from mhc_exp.topology.reference.arithmetic import Parameters, Sublayer, below, rms
from mhc_exp.topology.segments import belongs, rows, temperature


def forward(x0: np.ndarray, sublayers: Sequence[Sublayer], parameters: Parameters, variant: Segments) -> np.ndarray:
    """x' = A^T x + B^T F(A_0^T x): arXiv:2511.11238 eq. 6 and algorithm 1; arXiv:2503.14125 eq. 8 and algorithm 1."""
    x = expand(x0, parameters, variant)
    for index, sublayer in enumerate(sublayers):
        read, write, mix = coefficients(x, below(f"connections.{index}.", parameters), variant)
        parts = np.einsum("...ki,...iw->...kw", read, x)
        y = sublayer(parts.reshape(x0.shape)).reshape(parts.shape)
        x = np.einsum("...ij,...jw->...iw", mix, x) + np.einsum("...ki,...kw->...iw", write, y)
    return reduce(x, parameters, variant)


def coefficients(x: np.ndarray, parameters: Parameters, variant: Segments) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read [..., m, n], write [..., m, n] and mix as applied [..., n, n]; leading axes [B, T], none if static."""
    raw = raw_coefficients(x, parameters, variant)
    read, write, mix = (raw[..., part, :] for part in rows(variant))
    if variant.write == "diagonal":
        own_part = np.arange(variant.fractions)[:, None] == np.arange(variant.segments) % variant.fractions
        write = write * own_part
    return read, write, mix


def raw_coefficients(x: np.ndarray, parameters: Parameters, variant: Segments) -> np.ndarray:
    """[..., K, n]: static + scale * squash(norm(x) W / tau) (arXiv:2511.11238 eq. 8-10, arXiv:2503.14125 eq. 11-14)."""
    bias = parameters["bias"]
    if variant.coefficients == "static":
        return bias
    if variant.norm == "layer":
        normed = rms(x - x.mean(axis=-1, keepdims=True), NORM_EPS) * parameters["norm.weight"] + parameters["norm.bias"]
    else:
        normed = rms(x, NORM_EPS) * parameters["norm.weight"]
    squash = np.tanh if variant.squash == "tanh" else (lambda value: value)
    projected = np.swapaxes(normed @ parameters["weight"].T, -1, -2) / temperature(variant, width(x, variant))
    return bias + scale(parameters["scale"], variant) * squash(projected)


def scale(value: np.ndarray, variant: Segments) -> np.ndarray:
    """Scale of each coefficient: its own, or s_alpha for read and mix and s_beta for write, by row [K, 1]."""
    if variant.scale == "entry":
        return value
    read, write, mix = (np.full((part.stop - part.start, 1), 1.0) for part in rows(variant))
    return np.concatenate([value[0] * read, value[1] * write, value[0] * mix])


def width(x: np.ndarray, variant: Segments) -> int:
    return x.shape[-1] * variant.fractions


def expand(x0: np.ndarray, parameters: Parameters, variant: Segments) -> np.ndarray:
    """[B, T, C] -> [B, T, n, W]: W_expand x0 (arXiv:2511.11238 eq. 3), or its m parts over and over."""
    segment = x0.shape[-1] // variant.fractions
    if variant.expand == "linear":
        return (x0 @ parameters["expand.weight"].T).reshape(*x0.shape[:-1], variant.segments, segment)
    parts = x0.reshape(*x0.shape[:-1], variant.fractions, segment)
    return parts[..., np.arange(variant.segments) % variant.fractions, :]


def reduce(x: np.ndarray, parameters: Parameters, variant: Segments) -> np.ndarray:
    """[B, T, n, W] -> [B, T, C]: W_reduce norm(x) (arXiv:2511.11238 eq. 4), or the mean over segments of each part."""
    lead = x.shape[:-2]
    if variant.reduce_norm == "group":
        x = rms(x.reshape(*lead, -1, width(x, variant)), NORM_EPS).reshape(x.shape)
    if variant.reduce == "linear":
        return x.reshape(*lead, -1) @ parameters["reduce.weight"].T
    parts = belongs(variant).astype(np.float64)
    mean = parts / parts.sum(axis=1, keepdims=True)
    return np.einsum("kj,...jw->...kw", mean, x).reshape(*lead, -1)
