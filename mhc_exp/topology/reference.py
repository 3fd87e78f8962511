"""The specification: every wiring in float64 numpy, one step at a time, with the papers' equation numbers.

Axes: B batch, T time, S streams (the papers' n), C width. `x` is the stream state [B, T, S, C]; matrices act on the
stream axis of column-stacked streams, x' = H x. Nothing here is fast; the backends answer to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mhc_exp.config.schema import Gate, Mix, Residual, Streams, Variant
from mhc_exp.topology.layout import NORM_EPS, layout

Sublayer = Callable[[np.ndarray], np.ndarray]
"""[B, T, C] -> [B, T, C]; its own input norm inside, no residual (a whole block with residuals for site=block)."""
Parameters = Mapping[str, np.ndarray]


def forward(x0: np.ndarray, sublayers: Sequence[Sublayer], parameters: Parameters, variant: Variant) -> np.ndarray:
    """Final hidden state [B, T, C] of embedding `x0` [B, T, C] under `variant`; parameters named as in the model."""
    if isinstance(variant, Residual):
        return residual(x0, sublayers, variant)
    return streams(x0, sublayers, parameters, variant)


def residual(x0: np.ndarray, sublayers: Sequence[Sublayer], variant: Residual) -> np.ndarray:
    """x <- x + F(x), or x <- F(x) without a skip."""
    x = x0
    for sublayer in sublayers:
        x = x + sublayer(x) if variant.skip == "identity" else sublayer(x)
    return x


def streams(x0: np.ndarray, sublayers: Sequence[Sublayer], parameters: Parameters, variant: Streams) -> np.ndarray:
    """x' = H_res x + H_post^T F(H_pre x) at every connection (arXiv:2512.24880 eq. 3, arXiv:2409.19606 eq. 1)."""
    x = np.repeat(x0[..., None, :], variant.streams, axis=-2)  # expand = replicate
    for index, sublayer in enumerate(sublayers):
        prefix = f"topology.connections.{index}."
        own = {name[len(prefix) :]: value for name, value in parameters.items() if name.startswith(prefix)}
        read, write, mix = coefficients(x, own, variant)
        y = sublayer(np.einsum("...s,...sc->...c", read, x))
        x = np.einsum("...ij,...jc->...ic", mix, x) + write[..., None] * y[..., None, :]
    return reduce(x, parameters, variant)


def coefficients(x: np.ndarray, parameters: Parameters, variant: Streams) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """H_pre [B, T, S], H_post [B, T, S] and H_res as applied [B, T, S, S] (leading axes 1 if static)."""
    raw = raw_coefficients(x, parameters, variant)
    read, write, mix = (raw[..., part] for part in layout(variant).slices)
    matrix = chart(mix, variant.streams, variant.mix)
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
        normed = flat / np.sqrt(np.mean(flat**2, axis=-1, keepdims=True) + NORM_EPS)
        per_row = np.repeat(scale, sizes.parts)
        return bias + per_row * squash(normed @ parameters["weight"].T)
    centred = x - x.mean(axis=-1, keepdims=True)  # HC eq. 10-13: each stream on its own
    normed = centred / np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + NORM_EPS)
    normed = normed * parameters["norm.weight"] + parameters["norm.bias"]
    dynamic = squash(normed @ parameters["weight"].T)  # [B, T, S, 2 + mix/S]
    mixing = dynamic[..., 2:].reshape(*x.shape[:-2], -1)
    return bias + np.concatenate([scale[0] * dynamic[..., 0], scale[1] * dynamic[..., 1], scale[0] * mixing], axis=-1)


def gate(raw: np.ndarray, spec: Gate, over_rows: Callable) -> np.ndarray:
    """Read or write weights [..., S] from raw coefficients."""
    if spec.activation == "softmax_rows":  # seed demo: S x S row softmax; read averages its rows, write sums them
        streams = round(raw.shape[-1] ** 0.5)
        return over_rows(_softmax(raw.reshape(*raw.shape[:-1], streams, streams)), axis=-2) + spec.eps
    activations = {"linear": lambda z: z, "sigmoid": _sigmoid, "two_sigmoid": lambda z: 2 * _sigmoid(z)}
    return activations[spec.activation](raw) + spec.eps  # mHC eq. 8


def chart(logits: np.ndarray, streams: int, spec: Mix) -> np.ndarray:
    """The mixing matrix [..., S, S] (before an `apply: transposed`) from logits [..., S*S]."""
    if spec.chart == "identity":
        return np.broadcast_to(np.eye(streams), (*logits.shape[:-1], streams, streams))
    square = logits.reshape(*logits.shape[:-1], streams, streams)
    if spec.chart == "free":
        return square
    if spec.chart == "exp":
        return np.exp(square)
    return sinkhorn(square, spec.iterations, spec.order, spec.start, spec.eps)


def sinkhorn(
    logits: np.ndarray, iterations: int = 20, order: str = "rows_last", start: str = "exp", eps: float = 0.0
) -> np.ndarray:
    """Sinkhorn-Knopp on logits [..., S, S].

    - paper (arXiv:2512.24880 eq. 9): start=exp, order=rows_last: M <- T_r(T_c(M)), rows exact;
    - DeepSeek-V4 (TileKernels): start=softmax, order=columns_last, eps=1e-6: row softmax + eps, columns, then
      iterations-1 times (rows, columns), every sum + eps; columns exact up to eps, applied transposed;
    - seed demo: start=exp, order=columns_last.
    """

    def normalise(matrix: np.ndarray, axis: int) -> np.ndarray:
        return matrix / (matrix.sum(axis=axis, keepdims=True) + eps)

    first, last = (-2, -1) if order == "rows_last" else (-1, -2)
    if start == "softmax":
        matrix = normalise(_softmax(logits) + eps, last)
        iterations -= 1
    else:
        matrix = np.exp(logits - logits.max(axis=(-1, -2), keepdims=True))
    for _ in range(iterations):
        matrix = normalise(normalise(matrix, first), last)
    return matrix


def reduce(x: np.ndarray, parameters: Parameters, variant: Streams) -> np.ndarray:
    """Final hidden state [B, T, C] from the streams."""
    if variant.reduce == "sum":
        return x.sum(axis=-2)
    if variant.reduce == "mean":
        return x.mean(axis=-2)
    flat = x.reshape(*x.shape[:-2], -1)  # DeepSeek-V4 hc_head
    normed = flat / np.sqrt(np.mean(flat**2, axis=-1, keepdims=True) + NORM_EPS)
    logits = (normed @ parameters["topology.readout.weight"].T) * parameters["topology.readout.scale"]
    weights = _sigmoid(logits + parameters["topology.readout.bias"]) + variant.read.eps
    return np.einsum("...s,...sc->...c", weights, x)


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def _softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
