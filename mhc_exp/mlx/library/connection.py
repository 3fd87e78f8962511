"""One stream connection for any MLX model: the laboratory's, with its initial values and any leading axes.

Mirrors torch/library/connection.py. Axes: * any leading axes, N all of them together, S streams, C width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx
from mlx import nn

from mhc_exp.config.standalone import stream_variant
from mhc_exp.config.variants import Streams, Variant
from mhc_exp.mlx import streams
from mhc_exp.mlx.wiring import Coefficients, contract
from mhc_exp.topology.init import connection_values
from mhc_exp.topology.layout import NORM_EPS, mixing_share

HALF = (mx.float16, mx.bfloat16)


class Entered(NamedTuple):
    """What a connection that has read still needs to write."""

    streams: mx.array
    """[N, S, C]"""
    coefficients: Coefficients


class SinglePrecision(nn.Module):
    """Parameters that stay float32 when the model they are in is cast: rounded coefficients are not doubly stochastic.

    MLX casts by assigning to the items of every module. What is merely the rounding of the value that is here is not
    taken; other values of half precision, of a file of weights, are taken as float32.
    """

    def __setitem__(self, key: str, value: Any) -> None:
        held = self.get(key)
        if isinstance(value, mx.array) and isinstance(held, mx.array) and value.dtype in HALF:
            same = mx.array_equal(held.astype(value.dtype), value).item()
            value = held if same else value.astype(mx.float32)
        super().__setitem__(key, value)


class _LayerNorm(SinglePrecision, nn.LayerNorm):
    """The norm of HC's connections."""


class StreamConnection(SinglePrecision, streams.HyperConnection):
    """x' = H_res x + H_post^T F(H_pre x) in two halves, `read` before F and `write` after it, on [*, S, C].

    For a block that no `HyperConnection` fits around; variant and keys as there. Parameters are those of the
    laboratory's connection number `index` of `count`, with its initial values, and stay float32.
    """

    def __init__(
        self, variant: str | Variant, width: int, index: int = 0, count: int = 1, *, seed: int = 0, **keys: Any
    ):
        spec = stream_variant(variant, None, count, keys)
        super().__init__(spec, width, mixing_share(spec.mix, count))
        self.width, self.index = width, index
        if "norm" in self:
            self.norm = _LayerNorm(width, eps=NORM_EPS)
        prefix = f"topology.connections.{index}."
        values = connection_values(spec, width, index, prefix, seed)
        self.load_weights([(name.removeprefix(prefix), mx.array(value)) for name, value in values.items()])

    @property
    def variant(self) -> Streams:
        return self._variant

    def read(self, x: mx.array) -> tuple[mx.array, Entered]:
        """What F reads [*, C] of the streams [*, S, C], and what `write` needs."""
        expected = (self.variant.streams, self.width)
        if x.shape[-2:] != expected:
            raise ValueError(
                f"a connection of {expected[0]} streams of width {expected[1]} needs "
                f"[*, {expected[0]}, {expected[1]}], got {list(x.shape)}; call expand_streams(x, {expected[0]}) once, "
                "before the first connection"
            )
        flat, coefficients = x.reshape(-1, *expected), self.coefficients(x)
        u = contract(flat, coefficients.read).astype(x.dtype)
        return u.reshape(*x.shape[:-2], self.width), Entered(flat, coefficients)

    def write(self, entered: Entered, y: mx.array) -> mx.array:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The new streams [*, S, C] from F's output y [*, C]."""
        old, coefficients = entered
        if y.shape[-1] != self.width or y.size != old.shape[0] * self.width:
            raise ValueError(
                f"a branch has to keep the shape of what it reads, [*, {self.width}] for {old.shape[0]} positions; "
                f"it returned {list(y.shape)}. Wrap the part that keeps it, and reduce the streams before the rest"
            )
        new = super().write(old, y.reshape(-1, self.width), coefficients)
        return new.astype(old.dtype).reshape(*y.shape[:-1], *old.shape[1:])

    def coefficients(self, x: mx.array, known: Coefficients | None = None) -> Coefficients:
        """H_pre and H_post [S, N], H_res as applied [S, S, N] (None: the identity) for streams [*, S, C]; N = 1 if
        static.
        """
        return super().coefficients(x.reshape(-1, *x.shape[-2:]), known or streams.prepared([self])[0])
