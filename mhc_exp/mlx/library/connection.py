"""One connection for any MLX model: the laboratory's, with its initial values and any leading axes.

Mirrors torch/library/connection.py. `StreamConnection` is that of n streams, families.py has those of other families.
Axes: * any leading axes, N all of them together, S streams, C width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from mlx import nn

from mhc_exp.config.standalone import Standalone, output_problem, state_problem, stream_variant
from mhc_exp.config.variants import Variant
from mhc_exp.mlx import streams
from mhc_exp.mlx.wiring import Coefficients, contract
from mhc_exp.topology.families import state_shape
from mhc_exp.topology.init import connection_values
from mhc_exp.topology.layout import NORM_EPS, mixing_share

HALF = (mx.float16, mx.bfloat16)


class Entered(NamedTuple):
    """What a connection that has read still needs to write."""

    streams: mx.array
    """[N, S, C]"""
    found: Any
    """What was predicted from them."""


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


class SingleLayerNorm(SinglePrecision, nn.LayerNorm):
    """The norm of HC's and Frac-Connections' connections."""


class Connection(SinglePrecision):
    """What the library asks of a connection of any family: `read` before F, `write` after it.

    Axes beyond those of this module: W width of a stream, C unless the wiring divides the width into segments.
    """

    _variant: Standalone
    width: int
    """C, of what F reads and returns."""
    index: int

    @property
    def variant(self) -> Standalone:
        return self._variant

    @property
    def state_shape(self) -> tuple[int, int]:
        """(S, W)."""
        return state_shape(self.variant, self.width)

    def read(self, x: mx.array) -> tuple[mx.array, Entered]:
        """What F reads [*, C] of the streams [*, S, W], and what `write` needs."""
        if problem := state_problem(self.variant, self.width, x.shape):
            raise ValueError(problem)
        u, entered = self._enter(x.reshape(-1, *self.state_shape))
        return u.astype(x.dtype).reshape(*x.shape[:-2], self.width), entered

    def write(self, entered: Entered, y: mx.array) -> mx.array:
        """The new streams [*, S, W] from F's output y [*, C]."""
        old = entered.streams
        if problem := output_problem(self.width, old.shape[0], y.shape):
            raise ValueError(problem)
        new = self._leave(entered, y.reshape(-1, self.width))
        return new.astype(old.dtype).reshape(*y.shape[:-1], *old.shape[1:])

    def _enter(self, x: mx.array) -> tuple[mx.array, Entered]:
        """u [N, C] from [N, S, W]."""
        raise NotImplementedError

    def _leave(self, entered: Entered, y: mx.array) -> mx.array:
        """New streams [N, S, W] from y [N, C]."""
        raise NotImplementedError

    def _load(self, values: Mapping[str, np.ndarray], prefix: str) -> None:
        self.load_weights([(name.removeprefix(prefix), mx.array(value)) for name, value in values.items()])


class StreamConnection(Connection, streams.HyperConnection):  # pyright: ignore[reportIncompatibleMethodOverride]
    """x' = H_res x + H_post^T F(H_pre x) in two halves, `read` before F and `write` after it, on [*, S, C].

    For a block that no `HyperConnection` fits around; variant and keys as there. Parameters are those of the
    laboratory's connection number `index` of `count`, with its initial values, and stay float32.
    """

    def __init__(
        self,
        variant: str | Variant,
        width: int,
        index: int = 0,
        count: int = 1,
        *,
        streams: int | None = None,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
        **keys: Any,
    ):
        spec = stream_variant(variant, streams, count, dict(options or {}) | keys)
        super().__init__(spec, width, mixing_share(spec.mix, count))
        self.width, self.index = width, index
        if "norm" in self:
            self.norm = SingleLayerNorm(width, eps=NORM_EPS)
        prefix = f"topology.connections.{index}."
        self._load(connection_values(spec, width, index, prefix, seed), prefix)

    def _enter(self, x: mx.array) -> tuple[mx.array, Entered]:
        found = self.coefficients(x)
        return contract(x, found.read), Entered(x, found)

    def _leave(self, entered: Entered, y: mx.array) -> mx.array:
        return streams.HyperConnection.write(self, entered.streams, y, entered.found)

    def coefficients(self, x: mx.array, known: Coefficients | None = None) -> Coefficients:
        """H_pre and H_post [S, N], H_res as applied [S, S, N] (None: the identity) for streams [*, S, C]; N = 1 if
        static.
        """
        return super().coefficients(x.reshape(-1, *x.shape[-2:]), known or streams.prepared([self])[0])
