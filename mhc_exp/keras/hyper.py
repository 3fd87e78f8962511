"""Hyper-connections around any Keras layer: wrap a branch, expand once before, reduce once after.

Axes: * any leading axes, S streams, C width, which is last. Streams are [*, S, C].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from mhc_exp.config.variants import Variant
from mhc_exp.keras import branches as wrapped
from mhc_exp.keras.framework import Shape, Tensor, keras, ops, registered
from mhc_exp.keras.layer import StreamLayer
from mhc_exp.keras.streams import Coefficients, coefficients, connected, contract, read_out
from mhc_exp.topology.expansion import expansion_values
from mhc_exp.topology.init import connection_values, readout_values
from mhc_exp.topology.layout import mixing_share


def expand_streams(x: Tensor, streams: int = 4) -> Tensor:
    """[*, C] -> [*, S, C]: `streams` copies."""
    return ops.repeat(ops.expand_dims(x, -2), streams, axis=-2)


def reduce_streams(x: Tensor, how: Literal["sum", "mean"] = "sum") -> Tensor:
    """[*, S, C] -> [*, C]: their sum (both papers) or mean."""
    if how not in ("sum", "mean"):
        raise ValueError(f"streams are reduced by 'sum' or 'mean', got {how!r}; a learned read-out is ReduceStreams")
    return ops.sum(x, -2) if how == "sum" else ops.mean(x, -2)


@registered
class HyperConnection(StreamLayer):
    """x' = H_res x + H_post^T F(H_pre x) around any layer F (arXiv:2409.19606 eq. 1, arXiv:2512.24880 eq. 3).

    `branch` maps [*, C] to [*, C], or to a tuple that begins with it; it should hold its own norm and no residual.
    Further arguments go to it as they are; the rest of a tuple comes back as it is.

    - `variant`: a name of docs/variants.md whose family is `streams`, and any of its keys: `streams=2`,
      `init="uniform"`, `coefficients="static"`, `mix={"chart": "cayley"}`, or dotted in
      `options={"mix.chart": "cayley"}`.
    - `layer_index` counts the connections of a model from 0: initial values differ so that streams come apart.
    - `layers`, how many there are, is needed by a variant with a mixing budget (`c_mhc`).
    - `seed` of the initial values.
    - `name`, `dtype`, `trainable`: as of any Keras layer.
    """

    def __init__(
        self,
        branch: Any,
        streams: int | None = None,
        variant: str | Variant = "mhc",
        layer_index: int = 0,
        layers: int | None = None,
        *,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
        **keys: Any,
    ):
        super().__init__(streams, variant, layers, seed, options, keys)
        self.branch, self.layer_index, self.layers = wrapped.checked(branch), layer_index, layers
        self.share = mixing_share(self.variant.mix, layers or 1)

    def build(self, streams_shape: Shape) -> None:
        self.width = width = self.width_of(streams_shape)
        prefix = f"topology.connections.{self.layer_index}."
        self.add_values(connection_values(self.variant, width, self.layer_index, prefix, self.seed), prefix)
        wrapped.build(self.branch, (*streams_shape[:-2], width))

    def call(self, streams: Tensor, *args: Any, mask: Tensor | None = None, **kwargs: Any) -> Any:
        """[*, S, C] -> [*, S, C], or the branch's tuple with these in place of its first element."""
        self.width_of(streams.shape)
        *grid, count, width = ops.shape(streams)
        flat = ops.reshape(streams, (-1, count, width))
        found = self.coefficients(flat)
        u = ops.reshape(contract(flat, found.read), (*grid, width))
        y, rest, several = wrapped.parts(self.branch(u, *args, **kwargs, **wrapped.masked(self.branch, mask)))
        _keeps_the_shape(u.shape, y.shape)
        new = connected(flat, ops.reshape(y, (-1, width)), found)
        new = ops.reshape(new, (*grid, count, width))
        return (new, *rest) if several else new

    def coefficients(self, x: Tensor) -> Coefficients:
        """H_pre and H_post [S, N], H_res as applied [S, S, N] (None: the identity) for streams [N, S, C]; N = 1 if
        static.
        """
        return coefficients(x, self.parameters_by_name(), self.variant, self.share)

    def compute_output_spec(self, streams: Tensor, *args: Any, mask: Tensor | None = None, **kwargs: Any) -> Any:
        read = (*streams.shape[:-2], self.width_of(streams.shape))
        given = kwargs | wrapped.masked(self.branch, mask)
        y, rest, several = wrapped.outcome(self.branch, read, self.compute_dtype, *args, **given)
        _keeps_the_shape(read, y.shape)
        new = keras.KerasTensor(streams.shape, dtype=self.compute_dtype)
        return (new, *rest) if several else new

    def compute_output_shape(self, streams_shape: Shape) -> Any:
        spec = self.compute_output_spec(keras.KerasTensor(streams_shape, dtype=self.compute_dtype))
        return tuple(one.shape for one in spec) if isinstance(spec, tuple) else spec.shape

    def get_config(self) -> dict[str, Any]:
        own = {"branch": wrapped.saved(self.branch), "layer_index": self.layer_index, "layers": self.layers}
        return super().get_config() | own


class _Ending(StreamLayer):
    """What stands before or after the connections of a variant; it does not matter how many these are."""

    def __init__(
        self,
        streams: int | None = None,
        variant: str | Variant = "mhc",
        *,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
        **keys: Any,
    ):
        super().__init__(streams, variant, 1, seed, options, keys)


@registered
class ExpandStreams(_Ending):
    """How a variant begins: copies of x, or copies times a learned scale each (`expand="learned_scale"`)."""

    def build(self, x_shape: Shape) -> None:
        kind, prefix = self.variant.expand, "topology.expand."
        self.width = width = _width(x_shape)
        self.add_values(expansion_values(kind, self.variant.streams, width, prefix, self.seed), prefix)

    def call(self, x: Tensor) -> Tensor:
        """[*, C] -> [*, S, C]."""
        copies = expand_streams(x, self.variant.streams)
        return ops.cast(copies * self.parameters_by_name()["weight"], x.dtype) if self.value_names else copies

    def compute_output_shape(self, x_shape: Shape) -> Shape:
        return (*x_shape[:-1], self.variant.streams, x_shape[-1])


@registered
class ReduceStreams(_Ending):
    """How a variant ends: sum, mean, or DeepSeek-V4's learned read-out (`reduce="head"`)."""

    def build(self, streams_shape: Shape) -> None:
        self.width = width = self.width_of(streams_shape)
        self.add_values(readout_values(self.variant, width, "topology.readout."), "topology.readout.")

    def call(self, streams: Tensor) -> Tensor:
        """[*, S, C] -> [*, C]."""
        self.width_of(streams.shape)
        if self.variant.reduce != "head":
            return reduce_streams(streams, self.variant.reduce)  # type: ignore[arg-type]
        *grid, count, width = ops.shape(streams)
        flat = ops.reshape(streams, (-1, count, width))
        return ops.reshape(read_out(flat, self.parameters_by_name(), self.variant.read.eps), (*grid, width))

    def compute_output_shape(self, streams_shape: Shape) -> Shape:
        return (*streams_shape[:-2], self.width_of(streams_shape))


@registered
class HyperSequential(StreamLayer):
    """Branches in turn, each in a connection: [*, C] -> [*, C], expanded before the first and reduced after the last.

    Keywords are those of HyperConnection; keyword arguments of a call go to every branch. A variant's own beginning and
    end (`mhc_lss`, `deepseek_v4`) are part of it.
    """

    def __init__(
        self,
        branches: Iterable[Any],
        streams: int | None = None,
        variant: str | Variant = "mhc",
        *,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
        **keys: Any,
    ):
        inside = list(branches)
        super().__init__(streams, variant, len(inside), seed, options, keys)
        shared = {"variant": self.variant, "seed": seed, "dtype": self.dtype_policy}
        self.expand = ExpandStreams(**shared)
        self.connections = [
            HyperConnection(branch, layer_index=index, layers=len(inside), **shared)
            for index, branch in enumerate(inside)
        ]
        self.reduce = ReduceStreams(**shared)

    def build(self, x_shape: Shape) -> None:
        self.expand.build(x_shape)
        for layer in (*self.connections, self.reduce):
            layer.build(self.expand.compute_output_shape(x_shape))

    def call(self, x: Tensor, mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        x = self.expand(x)
        for connection in self.connections:
            x = wrapped.parts(connection(x, mask=mask, **kwargs))[0]
        return self.reduce(x)

    def compute_output_shape(self, x_shape: Shape) -> Shape:
        return x_shape

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"branches": [wrapped.saved(one.branch) for one in self.connections]}


def _width(x_shape: Shape) -> int:
    """C of [*, C]. Raises ValueError."""
    if x_shape[-1] is None:
        raise ValueError(f"the last axis has to be known when a layer is built, got {list(x_shape)}")
    return x_shape[-1]


def _keeps_the_shape(read: Shape, returned: Shape) -> None:
    """Raises ValueError."""
    if len(read) != len(returned) or any(a != b and None not in (a, b) for a, b in zip(read, returned, strict=True)):
        raise ValueError(
            f"a branch has to keep the shape of what it reads, {list(read)}; it returned {list(returned)}. Wrap the "
            "part that keeps it, and reduce the streams before the rest"
        )
