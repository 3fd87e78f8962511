"""The stream connection in keras.ops: what each branch reads, where its output goes. Mirrors mhc_exp/torch/streams.py.

Axes: N tokens (all leading axes together), S streams, C width. Coefficients are float32 at least and tokens-last: read
and write [S, N], mix [S, S, N] (N = 1 if static). The specification is mhc_exp.topology.reference.streams.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mhc_exp.config.variants import Gate, Streams
from mhc_exp.keras.charts import chart
from mhc_exp.keras.framework import Tensor, at_least_single, ops
from mhc_exp.topology.layout import NORM_EPS, layout


class Coefficients(NamedTuple):
    """Read (H_pre) [S, N], write (H_post) [S, N] and mix (H_res as applied) [S, S, N], None for the identity."""

    read: Tensor
    write: Tensor
    mix: Tensor | None


Parameters = Mapping[str, Tensor]
"""By the names of topology.layout.parameter_shapes."""


def coefficients(x: Tensor, parameters: Parameters, variant: Streams, share: float) -> Coefficients:
    """For the streams x [N, S, C]; `share` is layout.mixing_share: how much of H_res is its chart."""
    sizes = layout(variant)
    values = raw(at_least_single(x), parameters, variant)
    read, write, logits = (values[part] for part in sizes.slices)
    matrix = None
    if variant.mix.chart != "identity":
        matrix = chart(logits, sizes.streams, variant.mix, share)
        if variant.mix.apply == "transposed":
            matrix = ops.swapaxes(matrix, 0, 1)
    return Coefficients(_gate(read, variant.read, ops.mean), _gate(write, variant.write, ops.sum), matrix)


def raw(x: Tensor, parameters: Parameters, variant: Streams) -> Tensor:
    """Coefficients [total, N] before activation and chart."""
    bias = ops.expand_dims(parameters["bias"], 1)
    if variant.coefficients == "static":
        return bias
    squash = ops.tanh if variant.squash == "tanh" else (lambda value: value)
    weight, scale = parameters["weight"], parameters["scale"]
    if variant.norm == "flat_rms":
        return bias + _scales(scale, variant) * squash(projected(x, weight))
    dynamic = ops.transpose(squash(_layer_norm(x, parameters) @ ops.transpose(weight)), (1, 2, 0))
    read, write, mix = dynamic[:, 0], dynamic[:, 1], dynamic[:, 2:]  # of [S, 2 + mix/S, N]
    mix = ops.reshape(mix, (layout(variant).mix, -1))
    return bias + ops.concatenate([scale[0] * read, scale[1] * write, scale[0] * mix], axis=0)


def projected(x: Tensor, weight: Tensor) -> Tensor:
    """weight @ rms_norm(vec(x)) [rows, N] of streams [N, S, C]; divided by the norm after the matrix product (mHC
    eq. 14-16).
    """
    flat = ops.reshape(x, (-1, x.shape[1] * x.shape[2]))
    return (weight @ ops.transpose(flat)) * ops.rsqrt(ops.mean(ops.square(flat), 1) + NORM_EPS)


def contract(x: Tensor, weights: Tensor) -> Tensor:
    """Sum [N, C] of the streams [N, S, C] by weights [S, N] (or [S, 1]): what a branch reads."""
    return ops.cast(ops.sum(ops.transpose(weights)[:, :, None] * at_least_single(x), 1), x.dtype)


def connected(x: Tensor, y: Tensor, found: Coefficients) -> Tensor:
    """New streams [N, S, C] from the old ones and the branch's output y [N, C].

    The S x S products are written out: compilers fuse them, and none rounds them to TF32.
    """
    old, added = at_least_single(x), ops.transpose(found.write)[:, :, None] * at_least_single(y)[:, None]
    if found.mix is None:
        return ops.cast(old + added, x.dtype)
    columns = ops.transpose(found.mix, (2, 1, 0))  # [N, S, S]: stream j to stream i
    for j in range(old.shape[1]):
        added = added + columns[:, j, :, None] * old[:, j, None]
    return ops.cast(added, x.dtype)


def read_out(x: Tensor, parameters: Parameters, eps: float) -> Tensor:
    """[N, S, C] -> [N, C]: DeepSeek-V4's learned sigmoid-weighted sum of the streams (hc_head, arXiv:2606.19348)."""
    logits = projected(at_least_single(x), parameters["weight"]) * parameters["scale"]
    return contract(x, ops.sigmoid(logits + ops.expand_dims(parameters["bias"], 1)) + eps)


def _scales(scale: Tensor, variant: Streams) -> Tensor:
    """[total, 1]: the learned scale of each part, or alpha where it is fixed."""
    learned = scale.shape[0]
    parts = [
        ops.broadcast_to(scale[part], (size, 1)) if part < learned else ops.full((size, 1), variant.alpha, scale.dtype)
        for part, size in enumerate(layout(variant).parts)
    ]
    return ops.concatenate(parts, axis=0)


def _layer_norm(x: Tensor, parameters: Parameters) -> Tensor:
    """Of each stream of [N, S, C]."""
    centred = x - ops.mean(x, -1, keepdims=True)
    normed = centred * ops.rsqrt(ops.mean(ops.square(centred), -1, keepdims=True) + NORM_EPS)
    return normed * parameters["norm.weight"] + parameters["norm.bias"]


def _gate(values: Tensor, spec: Gate, over_rows) -> Tensor:
    """Read or write weights [S, N] from raw coefficients; softmax_rows averages (read) or sums (write) its rows."""
    if spec.activation == "softmax_rows":
        streams = round(values.shape[0] ** 0.5)
        weights = over_rows(ops.softmax(ops.reshape(values, (streams, streams, -1)), axis=1), axis=0)
    elif spec.activation == "linear":
        weights = values
    else:
        weights = ops.sigmoid(values)
        weights = 2 * weights if spec.activation == "two_sigmoid" else weights
    return weights + spec.eps if spec.eps else weights
