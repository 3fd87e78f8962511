"""Hyper-connections around any MLX module: wrap a branch, expand once before, reduce once after.

Mirrors torch/library/hyper.py. Axes: * any leading axes, S streams, C width. Streams are [*, S, C]; the width is the
last axis of everything, also of images, which MLX keeps as [B, H, W, C].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import mlx.core as mx
from mlx import nn

from mhc_exp.config.standalone import check_width, connection_variant
from mhc_exp.config.variants import Segments, Variant
from mhc_exp.mlx.expansion import Expand
from mhc_exp.mlx.library.connection import SinglePrecision
from mhc_exp.mlx.library.families import connect
from mhc_exp.mlx.library.recomputation import recomputed, refuse_what_cannot_be_recomputed
from mhc_exp.mlx.segments import SegmentExpand, SegmentReduce
from mhc_exp.mlx.streams import Readout
from mhc_exp.topology.expansion import expansion_values
from mhc_exp.topology.families import state_shape, streams_of
from mhc_exp.topology.init import readout_values
from mhc_exp.topology.segments import end_values


def expand_streams(x: mx.array, streams: int = 4) -> mx.array:
    """[*, C] -> [*, S, C]: `streams` copies; an image [B, H, W, C] becomes [B, H, W, S, C]."""
    return mx.repeat(mx.expand_dims(x, -2), streams, axis=-2)


def reduce_streams(x: mx.array, how: Literal["sum", "mean"] = "sum") -> mx.array:
    """[*, S, C] -> [*, C]: their sum (both papers) or mean."""
    if how not in ("sum", "mean"):
        raise ValueError(f"streams are reduced by 'sum' or 'mean', got {how!r}; a learned read-out is ReduceStreams")
    return x.sum(-2) if how == "sum" else x.mean(-2)


class HyperConnection(nn.Module):
    """x' = H_res x + H_post^T F(H_pre x) around any module F (arXiv:2409.19606 eq. 1, arXiv:2512.24880 eq. 3).

    `branch` maps [*, C] to [*, C], or to a tuple that begins with it; it should hold its own norm and no residual.
    Further arguments go to it as they are; the rest of a tuple comes back as it is.

    - `variant`: a name of docs/variants.md whose connections stand alone (family `streams`, `segments`, `sparse`), and
      any of its keys: `streams=2`, `init="uniform"`, `coefficients="static"`, `mix={"chart": "cayley"}`, or dotted in
      `options={"mix.chart": "cayley"}`. Segments are named by `segments` and `fractions` instead of `streams`, and a
      state of theirs is [*, S, W] with W = C / fractions (`ExpandStreams`, `ReduceStreams`).
    - `layer_index` counts the connections of a model from 0: initial values differ so that streams come apart.
    - `layers`, how many there are, is needed by a variant with a mixing budget (`c_mhc`).
    - `checkpoint=True` computes connection and branch again in the backward pass instead of keeping what they need;
      a branch with dropout or batch norm is refused.
    - `seed` of the initial values.
    """

    def __init__(
        self,
        branch: Callable[..., Any],
        width: int,
        streams: int | None = None,
        variant: str | Variant = "mhc",
        layer_index: int = 0,
        layers: int | None = None,
        *,
        checkpoint: bool = False,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
        **keys: Any,
    ):
        super().__init__()
        spec = connection_variant(variant, streams, layers, dict(options or {}) | keys)
        if checkpoint:
            refuse_what_cannot_be_recomputed(branch)
        self.branch = branch
        self.connection = connect(spec, width, layer_index, layers or 1, seed=seed)
        self.checkpoint = checkpoint

    def __call__(self, streams: mx.array, *args: Any, **kwargs: Any) -> Any:
        """[*, S, C] -> [*, S, C], or the branch's tuple with these in place of its first element."""
        if self.checkpoint:
            return recomputed(self._connected, self, streams, args, kwargs)
        return self._connected(streams, args, kwargs)

    def _connected(self, streams: mx.array, args: Iterable[Any], kwargs: Mapping[str, Any]) -> Any:
        u, entered = self.connection.read(streams)
        y, *rest = as_tuple(output := self.branch(u, *args, **kwargs))
        new = self.connection.write(entered, y)
        return (new, *rest) if isinstance(output, tuple) else new

    def _extra_repr(self) -> str:
        spec = self.connection.variant
        return f"variant={spec.name}, streams={streams_of(spec)}, layer_index={self.connection.index}"


class HyperConnection2d(HyperConnection):
    """The same around a branch on images, which are [B, H, W, C] in MLX: streams are [B, H, W, S, C]."""

    def __call__(self, streams: mx.array, *args: Any, **kwargs: Any) -> Any:
        if streams.ndim != 5:
            raise ValueError(
                f"a connection of images needs streams [B, H, W, S, C], got {list(streams.shape)}; images are "
                "[B, H, W, C] in MLX: call expand_streams(image) once, before the first connection"
            )
        return super().__call__(streams, *args, **kwargs)


class ExpandStreams(nn.Module):
    """How a variant begins: copies of x, or copies times a learned scale each (`expand="learned_scale"`); of segments,
    the parts of x over and over, or a learned linear map of it.

    Variant, `streams`, `options` and keys as in HyperConnection.
    """

    def __init__(
        self,
        variant: str | Variant,
        width: int,
        streams: int | None = None,
        *,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
        **keys: Any,
    ):
        super().__init__()
        spec = connection_variant(variant, streams, 1, dict(options or {}) | keys)
        check_width(spec, width)
        self.width = width
        if isinstance(spec, Segments):
            self.expand = SegmentExpand(spec, width)
            values = end_values(spec, width, seed)
        else:
            self.expand = Expand(spec.expand, spec.streams, width)
            values = expansion_values(spec.expand, spec.streams, width, "topology.expand.", seed)
        _load(self.expand, "topology.expand.", values)

    def __call__(self, x: mx.array) -> mx.array:
        """[*, C] -> [*, S, C] (of segments, [*, S, W])."""
        if x.shape[-1] != self.width:
            raise ValueError(f"to be expanded is a state of width {self.width}, got {list(x.shape)}")
        expanded = self.expand(x.reshape(-1, self.width))
        return expanded.reshape(*x.shape[:-1], *expanded.shape[1:]).astype(x.dtype)


class _Readout(SinglePrecision, Readout):
    """DeepSeek-V4's, whose weights are coefficients too."""


class ReduceStreams(nn.Module):
    """How a variant ends: sum, mean, or DeepSeek-V4's learned read-out (`reduce="head"`); of segments, the mean for
    each part, or a learned linear map.

    Variant, `streams`, `options` and keys as in HyperConnection.
    """

    def __init__(
        self,
        variant: str | Variant,
        width: int,
        streams: int | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        **keys: Any,
    ):
        super().__init__()
        spec = connection_variant(variant, streams, 1, dict(options or {}) | keys)
        check_width(spec, width)
        self.width, self.how = width, spec.reduce
        self.state_shape = state_shape(spec, width)
        if isinstance(spec, Segments):
            self.readout = SegmentReduce(spec, width)
            _load(self.readout, "topology.reduce.", end_values(spec, width, 0))
        elif spec.reduce == "head":
            self.readout = _Readout(spec, width)
            _load(self.readout, "topology.readout.", readout_values(spec, width, "topology.readout."))

    def __call__(self, x: mx.array) -> mx.array:
        """[*, S, C] (of segments, [*, S, W]) -> [*, C]."""
        if x.shape[-2:] != self.state_shape:
            raise ValueError(
                f"to be reduced are streams [*, {', '.join(map(str, self.state_shape))}], got {list(x.shape)}"
            )
        if "readout" not in self:
            return reduce_streams(x, self.how)  # type: ignore[arg-type]
        reduced = self.readout(x.reshape(-1, *self.state_shape)).astype(x.dtype)
        return reduced.reshape(*x.shape[:-2], self.width)


class HyperSequential(nn.Module):
    """Branches in turn, each in a connection: [*, C] -> [*, C], expanded before the first and reduced after the last.

    Keywords are those of HyperConnection; keyword arguments of a call go to every branch. A variant's own beginning and
    end (`mhc_lss`, `deepseek_v4`) are part of it.
    """

    def __init__(
        self,
        branches: Iterable[Callable[..., Any]],
        width: int,
        streams: int | None = None,
        variant: str | Variant = "mhc",
        *,
        checkpoint: bool = False,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
        **keys: Any,
    ):
        super().__init__()
        modules = list(branches)
        spec = connection_variant(variant, streams, len(modules), dict(options or {}) | keys)
        self.expand = ExpandStreams(spec, width, seed=seed)
        self.connections = [
            HyperConnection(module, width, None, spec, index, len(modules), checkpoint=checkpoint, seed=seed)
            for index, module in enumerate(modules)
        ]
        self.reduce = ReduceStreams(spec, width)

    def __call__(self, x: mx.array, **kwargs: Any) -> mx.array:
        x = self.expand(x)
        for connection in self.connections:
            x, *_ = as_tuple(connection(x, **kwargs))
        return self.reduce(x)


def as_tuple(output: Any) -> tuple[Any, ...]:
    return output if isinstance(output, tuple) else (output,)


def _load(module: nn.Module, prefix: str, values: Mapping[str, Any]) -> None:
    own = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    module.load_weights([(name, mx.array(value)) for name, value in own.items()])
