"""Hyper-connections around any module: wrap a branch, expand once before, reduce once after.

Axes: * any leading axes, S streams, C width. Streams are [*, S, C]; with `channel_dim=1` a branch sees [B, C, H, W] and
the streams are [B, H, W, S, C].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from mhc_exp.config.standalone import check_width, connection_variant
from mhc_exp.config.variants import Segments, Variant
from mhc_exp.topology.expansion import expansion_values
from mhc_exp.topology.families import state_shape, streams_of
from mhc_exp.topology.init import readout_values
from mhc_exp.topology.segments import end_values
from mhc_exp.torch.expansion import Expand
from mhc_exp.torch.library.connection import Kernels, SinglePrecision
from mhc_exp.torch.library.families import connect
from mhc_exp.torch.segments import SegmentExpand, SegmentReduce
from mhc_exp.torch.streams import Readout


def expand_streams(x: Tensor, streams: int = 4, channel_dim: int = -1) -> Tensor:
    """[*, C] -> [*, S, C]: `streams` copies. With `channel_dim=1`, [B, C, H, W] -> [B, H, W, S, C]."""
    last = x.movedim(channel_dim, -1)
    return last.unsqueeze(-2).expand(*last.shape[:-1], streams, -1).contiguous()


def reduce_streams(x: Tensor, how: Literal["sum", "mean"] = "sum", channel_dim: int = -1) -> Tensor:
    """[*, S, C] -> [*, C]: their sum (both papers) or mean. With `channel_dim=1`, [B, H, W, S, C] -> [B, C, H, W]."""
    if how not in ("sum", "mean"):
        raise ValueError(f"streams are reduced by 'sum' or 'mean', got {how!r}; a learned read-out is ReduceStreams")
    return (x.sum(-2) if how == "sum" else x.mean(-2)).movedim(-1, channel_dim)


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
    - `channel_dim=1` for a branch on [B, C, H, W].
    - `checkpoint=True` computes connection and branch again in the backward pass instead of keeping what they need.
    - `kernels`: `auto`, the fastest tier that is exact here; `native`, an error where it cannot be had; `eager`.
    - `seed` of the initial values.
    """

    def __init__(
        self,
        branch: nn.Module,
        width: int,
        streams: int | None = None,
        variant: str | Variant = "mhc",
        layer_index: int = 0,
        layers: int | None = None,
        *,
        channel_dim: int = -1,
        checkpoint: bool = False,
        kernels: Kernels = "auto",
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
        **keys: Any,
    ):
        super().__init__()
        spec = connection_variant(variant, streams, layers, dict(options or {}) | keys)
        self.branch = branch
        self.connection = connect(spec, width, layer_index, layers or 1, seed=seed, kernels=kernels)
        self.channel_dim, self.checkpoint = channel_dim, checkpoint

    def forward(self, streams: Tensor, *args: Any, **kwargs: Any) -> Any:
        """[*, S, C] -> [*, S, C], or the branch's tuple with these in place of its first element."""
        if self.checkpoint and torch.is_grad_enabled():
            return recomputed(self._connected, streams, *args, use_reentrant=False, **kwargs)
        return self._connected(streams, *args, **kwargs)

    def _connected(self, streams: Tensor, *args: Any, **kwargs: Any) -> Any:
        u, entered = self.connection.read(streams)
        y, *rest = _as_tuple(output := self.branch(u.movedim(-1, self.channel_dim), *args, **kwargs))
        new = self.connection.write(entered, y.movedim(self.channel_dim, -1))
        return (new, *rest) if isinstance(output, tuple) else new

    def extra_repr(self) -> str:
        spec = self.connection.variant
        return f"variant={spec.name}, streams={streams_of(spec)}, layer_index={self.connection.index}"


class HyperConnection2d(HyperConnection):
    """The same around a branch on [B, C, H, W]: `HyperConnection(..., channel_dim=1)`."""

    def __init__(self, branch: nn.Module, width: int, *args: Any, **keys: Any):
        super().__init__(branch, width, *args, channel_dim=1, **keys)


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
        channel_dim: int = -1,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
        **keys: Any,
    ):
        super().__init__()
        spec = connection_variant(variant, streams, 1, dict(options or {}) | keys)
        check_width(spec, width)
        self.width, self.channel_dim = width, channel_dim
        if isinstance(spec, Segments):
            self.expand = SegmentExpand(spec, width)
            values = end_values(spec, width, seed)
        else:
            self.expand = Expand(spec.expand, spec.streams, width)
            values = expansion_values(spec.expand, spec.streams, width, "topology.expand.", seed)
        _load(self.expand, "topology.expand.", values)

    def forward(self, x: Tensor) -> Tensor:
        """[*, C] -> [*, S, C] (of segments, [*, S, W])."""
        last = x.movedim(self.channel_dim, -1)
        if last.shape[-1] != self.width:
            raise ValueError(f"to be expanded is a state of width {self.width}, got {list(x.shape)}")
        expanded = self.expand(last.reshape(-1, self.width))
        return expanded.view(*last.shape[:-1], *expanded.shape[1:]).to(x.dtype)


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
        channel_dim: int = -1,
        options: Mapping[str, Any] | None = None,
        **keys: Any,
    ):
        super().__init__()
        spec = connection_variant(variant, streams, 1, dict(options or {}) | keys)
        check_width(spec, width)
        self.width, self.state_shape = width, state_shape(spec, width)
        self.how, self.channel_dim = spec.reduce, channel_dim
        if isinstance(spec, Segments):
            self.readout = SegmentReduce(spec, width)
            _load(self.readout, "topology.reduce.", end_values(spec, width, 0))
        elif spec.reduce == "head":
            self.readout = _Readout(spec, width)
            _load(self.readout, "topology.readout.", readout_values(spec, width, "topology.readout."))
        else:
            self.readout = None

    def forward(self, x: Tensor) -> Tensor:
        """[*, S, C] (of segments, [*, S, W]) -> [*, C]."""
        if x.shape[-2:] != self.state_shape:
            raise ValueError(
                f"to be reduced are streams [*, {', '.join(map(str, self.state_shape))}], got {list(x.shape)}"
            )
        if self.readout is None:
            return reduce_streams(x, self.how, self.channel_dim)  # type: ignore[arg-type]
        reduced = self.readout(x.reshape(-1, *self.state_shape)).to(x.dtype)
        return reduced.view(*x.shape[:-2], self.width).movedim(-1, self.channel_dim)


class HyperSequential(nn.Module):
    """Branches in turn, each in a connection: [*, C] -> [*, C], expanded before the first and reduced after the last.

    Keywords are those of HyperConnection; keyword arguments of a call go to every branch. A variant's own beginning and
    end (`mhc_lss`, `deepseek_v4`) are part of it.
    """

    def __init__(
        self,
        branches: Iterable[nn.Module],
        width: int,
        streams: int | None = None,
        variant: str | Variant = "mhc",
        *,
        channel_dim: int = -1,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
        **keys: Any,
    ):
        super().__init__()
        own = {name: keys.pop(name) for name in ("checkpoint", "kernels") if name in keys}
        modules = list(branches)
        spec = connection_variant(variant, streams, len(modules), dict(options or {}) | keys)
        shared = {"channel_dim": channel_dim, "seed": seed, **own}
        self.expand = ExpandStreams(spec, width, channel_dim=channel_dim, seed=seed)
        self.connections = nn.ModuleList(
            HyperConnection(module, width, None, spec, index, len(modules), **shared)
            for index, module in enumerate(modules)
        )
        self.reduce = ReduceStreams(spec, width, channel_dim=channel_dim)

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        x = self.expand(x)
        for connection in self.connections:
            x, *_ = _as_tuple(connection(x, **kwargs))
        return self.reduce(x)


def _as_tuple(output: Any) -> tuple[Any, ...]:
    return output if isinstance(output, tuple) else (output,)


def _load(module: nn.Module, prefix: str, values: Mapping[str, Any]) -> None:
    own = {name.removeprefix(prefix): torch.from_numpy(one) for name, one in values.items() if name.startswith(prefix)}
    module.load_state_dict(own)
