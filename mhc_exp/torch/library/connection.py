"""One stream connection for any model: the laboratory's, with its initial values, its tiers and any leading axes.

Axes: * any leading axes, N all of them together, S streams, C width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from mhc_exp.config.standalone import stream_variant
from mhc_exp.config.variants import Streams, Variant
from mhc_exp.topology.init import connection_values
from mhc_exp.topology.layout import mixing_share
from mhc_exp.torch import streams
from mhc_exp.torch.kernels import choice
from mhc_exp.torch.kernels.build import Unavailable
from mhc_exp.torch.kernels.eager import Eager
from mhc_exp.torch.wiring import Coefficients, Observer

Kernels = Literal["auto", "native", "eager"]
"""`auto`: the fastest tier that is exact here; `native`: an error where it is not to be had; `eager`: PyTorch's own."""

EAGER = Eager()


class Entered(NamedTuple):
    """What a connection that has read still needs to write."""

    tier: Eager
    streams: Tensor
    """[N, S, C]"""
    coefficients: Coefficients


class StreamConnection(streams.HyperConnection):
    """x' = H_res x + H_post^T F(H_pre x) in two halves, `read` before F and `write` after it, on [*, S, C].

    For a block that no `HyperConnection` fits around; variant and keys as there. Parameters are those of the
    laboratory's connection number `index` of `count`, with its initial values. They stay float32 when the model is cast
    to a half precision: rounded coefficients are not doubly stochastic.
    """

    observe: Observer | None = None
    """Called after every `write`; mhc_exp.torch.library.watch sets it for a step."""

    def __init__(
        self,
        variant: str | Variant,
        width: int,
        index: int = 0,
        count: int = 1,
        *,
        seed: int = 0,
        kernels: Kernels = "auto",
        **keys: Any,
    ):
        spec = stream_variant(variant, None, count, keys)
        super().__init__(spec, width, mixing_share(spec.mix, count))
        self.width, self.index, self.kernels = width, index, kernels
        prefix = f"topology.connections.{index}."
        values = connection_values(spec, width, index, prefix, seed)
        self.load_state_dict({name.removeprefix(prefix): torch.from_numpy(value) for name, value in values.items()})

    def read(self, x: Tensor) -> tuple[Tensor, Entered]:
        """What F reads [*, C] of the streams [*, S, C], and what `write` needs."""
        expected = (self.variant.streams, self.width)
        if x.shape[-2:] != expected:
            raise ValueError(
                f"a connection of {expected[0]} streams of width {expected[1]} needs "
                f"[*, {expected[0]}, {expected[1]}], got {list(x.shape)}; call expand_streams(x, {expected[0]}) once, "
                "before the first connection"
            )
        tier = self.tier(x)
        flat = x.reshape(-1, *expected)
        coefficients, u, flat = tier.enter(self, flat, tier.prepare([self])[0])
        return u.to(x.dtype).view(*x.shape[:-2], self.width), Entered(tier, flat, coefficients)

    def write(self, entered: Entered, y: Tensor) -> Tensor:
        """The new streams [*, S, C] from F's output y [*, C]."""
        tier, old, coefficients = entered
        if y.shape[-1] != self.width or y.numel() != old.shape[0] * self.width:
            raise ValueError(
                f"a branch has to keep the shape of what it reads, [*, {self.width}] for {old.shape[0]} positions; "
                f"it returned {list(y.shape)}. Wrap the part that keeps it, and reduce the streams before the rest"
            )
        new = tier.write(old, y.reshape(-1, self.width), coefficients)
        if self.observe is not None:
            self.observe(coefficients, new)
        return new.view(*y.shape[:-1], *old.shape[1:])

    def coefficients(self, x: Tensor) -> Coefficients:
        """H_pre and H_post [S, N], H_res as applied [S, S, N] (None: the identity) for streams [*, S, C]; N = 1 if
        static.
        """
        return EAGER.predict(self, x.reshape(-1, *x.shape[-2:]), EAGER.prepare([self])[0])[0]

    def tier(self, x: Tensor) -> Eager:
        """What computes this call."""
        if self.kernels == "eager" or torch.compiler.is_compiling():
            return EAGER
        tier, why_not = _fastest(self.variant, x.device)
        fits = {torch.float32} if x.device.type == "cpu" else {torch.float32, torch.bfloat16}
        if tier is not None and (x.dtype not in fits or self.bias.dtype is not torch.float32):
            tier, why_not = None, f"they take float32 (on CUDA also bfloat16) streams, not {x.dtype}"
        if tier is None and self.kernels == "native":
            raise Unavailable(f"kernels='native' cannot be had here: {why_not}; type kernels='auto'")
        return tier or EAGER

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True):
        """Moves as asked; casts to float64, never to half precision."""

        def moved(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            if result.dtype in (torch.float16, torch.bfloat16):
                return tensor.to(result.device)
            return result

        return super()._apply(moved, recurse)


@functools.cache
def _fastest(variant: Streams, device: torch.device) -> tuple[Eager | None, str]:
    """The tier with kernels of its own, or None and why there is none."""
    try:
        return choice.native(variant, device).tier, ""
    except Unavailable as reason:
        return None, str(reason)
