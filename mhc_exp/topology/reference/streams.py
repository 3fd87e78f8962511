"""Wirings that keep n streams: x' = H_res x + H_post^T F(H_pre x).

`x` is the stream state [B, T, S, C]; matrices act on the stream axis of column-stacked streams, x' = H x.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mhc_exp.config.variants import Gate, Streams
from mhc_exp.topology.layout import NORM_EPS, layout, mixing_share
from mhc_exp.topology.reference.arithmetic import (
    Branch,
    Parameters,
    Sublayer,
    below,
    rms,
    sigmoid,
    softmax,
    with_residuals,
)
from mhc_exp.topology.reference.charts import chart
from mhc_exp.topology.reference.expansion import expand


def forward(x0: np.ndarray, sublayers: Sequence[Sublayer], parameters: Parameters, variant: Streams) -> np.ndarray:
    """x' = H_res x + H_post^T F(H_pre x) at every connection (arXiv:2512.24880 eq. 3, arXiv:2409.19606 eq. 1).

    With read_from=previous (single-pass mHC, arXiv:2609.19969), H_pre is the one predicted by the connection before:
    stream 0 for the first sublayer, and the last one is left for the read-out.
    """
    x = expand(x0, variant.expand, variant.streams, parameters)
    waiting = np.eye(variant.streams)[0]
    branches: Sequence[Branch] = sublayers
    if variant.site == "block":
        branches = [with_residuals(pair) for pair in zip(sublayers[::2], sublayers[1::2], strict=True)]
    share = mixing_share(variant.mix, len(branches))
    for index, branch in enumerate(branches):
        own = below(f"connections.{index}.", parameters)
        predicted, write, mix = coefficients(x, own, variant, share)
        read = predicted if variant.read_from == "current" else waiting
        y = branch(contract(x, read))
        x = np.einsum("...ij,...jc->...ic", mix, x) + write[..., None] * y[..., None, :]
        waiting = predicted
    return contract(x, waiting) if variant.reduce == "last_read" else reduce(x, parameters, variant)


def contract(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sum [B, T, C] of the streams [B, T, S, C]."""
    return np.einsum("...s,...sc->...c", weights, x)


def coefficients(
    x: np.ndarray, parameters: Parameters, variant: Streams, share: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """H_pre [B, T, S], H_post [B, T, S] and H_res as applied [B, T, S, S] (leading axes 1 if static).

    `share` is `layout.mixing_share`: how much of H_res is its chart, the rest being the identity.
    """
    raw = raw_coefficients(x, parameters, variant)
    read, write, mix = (raw[..., part] for part in layout(variant).slices)
    matrix = (1 - share) * np.eye(variant.streams) + share * chart(mix, variant.streams, variant.mix)
    if variant.mix.apply == "transposed":
        matrix = np.swapaxes(matrix, -1, -2)
    return gate(read, variant.read, np.mean), gate(write, variant.write, np.sum), matrix


def raw_coefficients(x: np.ndarray, parameters: Parameters, variant: Streams) -> np.ndarray:
    """[B, T, total] coefficients before activation and chart."""
    bias = parameters["bias"]
    if variant.coefficients == "static":
        return np.broadcast_to(bias, (1, 1, *bias.shape))
    squash = np.tanh if variant.squash == "tanh" else (lambda value: value)
    scale = parameters["scale"]
    sizes = layout(variant)
    if variant.norm == "flat_rms":  # mHC eq. 7: vec(x) normalised as a whole
        flat = x.reshape(*x.shape[:-2], -1)
        normed = rms(flat, NORM_EPS)
        fixed = np.full(len(sizes.parts) - len(scale), variant.alpha)
        per_row = np.repeat(np.concatenate([scale, fixed]), sizes.parts)
        return bias + per_row * squash(normed @ parameters["weight"].T)
    centred = x - x.mean(axis=-1, keepdims=True)  # HC eq. 10-13: each stream on its own
    normed = rms(centred, NORM_EPS) * parameters["norm.weight"] + parameters["norm.bias"]
    dynamic = squash(normed @ parameters["weight"].T)  # [B, T, S, 2 + mix/S]
    mixing = dynamic[..., 2:].reshape(*x.shape[:-2], -1)
    return bias + np.concatenate([scale[0] * dynamic[..., 0], scale[1] * dynamic[..., 1], scale[0] * mixing], axis=-1)


def gate(raw: np.ndarray, spec: Gate, over_rows: Callable) -> np.ndarray:
    """Read or write weights [..., S] from raw coefficients."""
    if spec.activation == "softmax_rows":  # seed demo: S x S row softmax; read averages its rows, write sums them
        streams = round(raw.shape[-1] ** 0.5)
        return over_rows(softmax(raw.reshape(*raw.shape[:-1], streams, streams)), axis=-2) + spec.eps
    activations = {"linear": lambda z: z, "sigmoid": sigmoid, "two_sigmoid": lambda z: 2 * sigmoid(z)}
    return activations[spec.activation](raw) + spec.eps  # mHC eq. 8


def reduce(x: np.ndarray, parameters: Parameters, variant: Streams) -> np.ndarray:
    """Final hidden state [B, T, C] from the streams."""
    if variant.reduce == "sum":
        return x.sum(axis=-2)
    if variant.reduce == "mean":
        return x.mean(axis=-2)
    flat = x.reshape(*x.shape[:-2], -1)  # DeepSeek-V4 hc_head
    normed = rms(flat, NORM_EPS)
    logits = (normed @ parameters["readout.weight"].T) * parameters["readout.scale"]
    weights = sigmoid(logits + parameters["readout.bias"]) + variant.read.eps
    return contract(x, weights)
