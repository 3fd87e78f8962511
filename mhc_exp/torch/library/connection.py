"""One connection for any model: the laboratory's, with its initial values, its tiers and any leading axes.

`StreamConnection` is that of n streams, families.py has those of other families. Axes: * any leading axes, N all of
them together, S streams, C width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn

from mhc_exp.config.standalone import Standalone, check_word, output_problem, state_problem, stream_variant
from mhc_exp.config.variants import Streams, Variant
from mhc_exp.topology.families import state_shape
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
HALF = (torch.float16, torch.bfloat16)


class Entered(NamedTuple):
    """What a connection that has read still needs to write."""

    streams: Tensor
    """[N, S, C]"""
    found: Any
    """What was predicted from them."""


class SinglePrecision(nn.Module):
    """Parameters that stay float32 when the model they are in is cast, or loads values of half precision: rounded
    coefficients are not doubly stochastic.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True):
        """Moves as asked; casts to float64, never to half precision."""

        def moved(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            if result.dtype in HALF:
                return tensor.to(result.device)
            return result

        return super()._apply(moved, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        state_dict, prefix, *_ = args
        for name, value in state_dict.items():
            if name.startswith(prefix) and isinstance(value, Tensor) and value.dtype in HALF:
                state_dict[name] = value.float()
        super()._load_from_state_dict(*args, **kwargs)


class Connection(SinglePrecision):
    """What the library asks of a connection of any family: `read` before F, `write` after it.

    Axes beyond those of this module: W width of a stream, C unless the wiring divides the width into segments.
    """

    variant: Standalone
    width: int
    """C, of what F reads and returns."""
    index: int
    observe: Observer | None = None
    """Called after every `write`; mhc_exp.torch.library.watch sets it for a step."""

    def read(self, x: Tensor) -> tuple[Tensor, Entered]:
        """What F reads [*, C] of the streams [*, S, W], and what `write` needs."""
        if problem := state_problem(self.variant, self.width, x.shape):
            raise ValueError(problem)
        u, entered = self._enter(x.reshape(-1, *self.state_shape))
        return u.to(x.dtype).view(*x.shape[:-2], self.width), entered

    def write(self, entered: Entered, y: Tensor) -> Tensor:
        """The new streams [*, S, W] from F's output y [*, C]."""
        old = entered.streams
        if problem := output_problem(self.width, old.shape[0], y.shape):
            raise ValueError(problem)
        new = self._leave(entered, y.reshape(-1, self.width))
        if self.observe is not None:
            self.observe(self._seen(entered), new)
        return new.view(*y.shape[:-1], *old.shape[1:])

    @property
    def state_shape(self) -> tuple[int, int]:
        """(S, W)."""
        return state_shape(self.variant, self.width)

    def _enter(self, x: Tensor) -> tuple[Tensor, Entered]:
        """u [N, C] from [N, S, W]."""
        raise NotImplementedError

    def _leave(self, entered: Entered, y: Tensor) -> Tensor:
        """New streams [N, S, W] from y [N, C]."""
        raise NotImplementedError

    def _seen(self, entered: Entered) -> Coefficients:
        """What an observer is told."""
        raise NotImplementedError

    def tier(self, x: Tensor) -> Eager:
        """What computes a call with such streams."""
        return EAGER

    def coefficients(self, x: Tensor) -> Coefficients:
        """Read and write weights [S, N], mix as applied [S, S, N] (None: the identity) for streams [*, S, W]; N = 1 if
        static.
        """
        return self._seen(self._enter(x.reshape(-1, *self.state_shape))[1])

    def _load(self, values: Mapping[str, np.ndarray], prefix: str) -> None:
        self.load_state_dict({name.removeprefix(prefix): torch.from_numpy(value) for name, value in values.items()})


class StreamConnection(Connection, streams.HyperConnection):
    """x' = H_res x + H_post^T F(H_pre x) in two halves, `read` before F and `write` after it, on [*, S, C].

    For a block that no `HyperConnection` fits around; variant and keys as there. Parameters are those of the
    laboratory's connection number `index` of `count`, with its initial values. They stay float32 when the model is cast
    to a half precision: rounded coefficients are not doubly stochastic.
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
        kernels: Kernels = "auto",
        options: Mapping[str, Any] | None = None,
        **keys: Any,
    ):
        spec = stream_variant(variant, streams, count, dict(options or {}) | keys)
        check_word("kernels", kernels, get_args(Kernels))
        super().__init__(spec, width, mixing_share(spec.mix, count))
        self.width, self.index, self.kernels = width, index, kernels
        prefix = f"topology.connections.{index}."
        self._load(connection_values(spec, width, index, prefix, seed), prefix)

    def _enter(self, x: Tensor) -> tuple[Tensor, Entered]:
        tier = self.tier(x)
        coefficients, u, flat = tier.enter(self, x, tier.prepare([self])[0])
        return u, Entered(flat, (tier, coefficients))

    def _leave(self, entered: Entered, y: Tensor) -> Tensor:
        tier, coefficients = entered.found
        return tier.write(entered.streams, y, coefficients)

    def _seen(self, entered: Entered) -> Coefficients:
        return entered.found[1]

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


@functools.cache
def _fastest(variant: Streams, device: torch.device) -> tuple[Eager | None, str]:
    """The tier with kernels of its own, or None and why there is none."""
    try:
        return choice.native(variant, device).tier, ""
    except Unavailable as reason:
        return None, str(reason)
