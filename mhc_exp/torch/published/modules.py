"""Which modules of transformers are connections, and what each computes: its coefficients out of a call to it.

A call is watched from outside (a forward hook sees input and output) because these modules return H_post and H_res but
not H_pre. That is computed here from the same parameters, and `Kind.coefficients` refuses if the sublayer's input does
not come out of it: then the code of transformers is not what this file was written for.
Axes: B batch, T time, N = B*T tokens, S streams, C width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mhc_exp.torch.wiring import Coefficients, contract

TOLERANCE = 2e-2
"""Relative, for models in bfloat16; other code would differ by much more."""


class UnknownCode(Exception):
    """The module does not compute what its name promised; the text says how that was seen."""


class Kind(NamedTuple):
    """One way of writing connections."""

    mixes: bool
    """Whether there is an H_res."""
    streams: Callable[[nn.Module, Tensor], Tensor]
    """(module, what it is given) -> streams [N, S, C]."""
    coefficients: Callable[[nn.Module, Tensor, Any], tuple[Coefficients, Tensor]]
    """(module, streams, what it returned) -> coefficients, and what the sublayer reads [N, C] according to them."""
    taken: Callable[[Any], Tensor]
    """What it returned -> what the sublayer reads [B, T, C]."""
    changed: Callable[[Any, Coefficients, Tensor], Any]
    """(what it returned, other coefficients, streams) -> what it shall return."""


def kind(module: nn.Module) -> Kind | None:
    """What `module` is, if it is a connection around a sublayer."""
    found = KINDS.get(type(module).__name__)
    return None if found is GATED and _without_write(module) else found


def is_readout(module: nn.Module) -> bool:
    """Whether `module` makes one state of the streams after the last connection."""
    name = type(module).__name__
    return name in READOUTS or (KINDS.get(name) is GATED and _without_write(module))


def observed(module: nn.Module, of: Kind, given: Tensor, returned: Any) -> tuple[Coefficients, Tensor]:
    """Coefficients of one call and the streams [N, S, C]. Raises UnknownCode."""
    streams = of.streams(module, given)
    coefficients, expected = of.coefficients(module, streams, returned)
    taken = of.taken(returned).flatten(0, 1).float()
    off = (taken - expected).norm() / expected.norm().clamp(min=1e-30)
    if not off <= TOLERANCE and bool(torch.isfinite(expected).all()):
        raise UnknownCode(
            f"{type(module).__name__} reads something else than its parameters say (relative difference {off:.2g}): "
            "this version of transformers has other code than the one this was written for (5.23)"
        )
    return coefficients, streams


def _one_state_each(module: nn.Module, given: Tensor) -> Tensor:
    return given.flatten(0, 1)


def _side_by_side(module: nn.Module, given: Tensor) -> Tensor:
    return given.flatten(0, 1).unflatten(-1, (cast(Any, module).hc_count, -1))


def _weights(module: nn.Module, streams: Tensor) -> Tensor:
    """H_pre [S, N]: sigmoid(scale phi RMSNorm(vec(x)) + b) + eps (arXiv:2512.24880 eq. 7 and 8, eps of V4)."""
    of = cast(Any, module)
    flat, count = streams.flatten(1).float(), streams.shape[1]
    norm = of.input_norm
    inverse = torch.rsqrt(flat.square().mean(1) + (norm.eps if hasattr(norm, "eps") else norm.variance_epsilon))
    predicted = (of.fn[:count].float() @ flat.t()) * inverse
    bias = of.base[:count].float().unsqueeze(1)
    return torch.sigmoid(of.scale[0].float() * predicted + bias) + of.hc_eps


def _constrained(module: nn.Module, streams: Tensor, returned: Any) -> tuple[Coefficients, Tensor]:
    post, comb, _ = returned  # comb [B, T, from, to]: V4 applies the transpose
    read = _weights(module, streams)
    mix = comb.flatten(0, 1).permute(2, 1, 0).float()
    return Coefficients(read, post.flatten(0, 1).t().float(), mix), contract(streams.float(), read)


def _rewritten(returned: Any, new: Coefficients, streams: Tensor) -> Any:
    post, comb, collapsed = returned
    mix = torch.eye(streams.shape[1]).unsqueeze(2).to(comb) if new.mix is None else new.mix.to(comb)
    return (
        new.write.t().to(post).view_as(post),
        mix.permute(2, 1, 0).expand(len(streams), -1, -1).reshape(comb.shape),
        contract(streams.float(), new.read).to(collapsed.dtype).view_as(collapsed),
    )


def _independent(module: nn.Module, streams: Tensor, returned: Any) -> tuple[Coefficients, Tensor]:
    post, _ = returned
    read = _weights(module, streams)
    return Coefficients(read, post.flatten(0, 1).t().float(), None), contract(streams.float(), read)


def _rewritten_independent(returned: Any, new: Coefficients, streams: Tensor) -> Any:
    post, collapsed = returned
    taken = contract(streams.float(), new.read).to(collapsed.dtype).view_as(collapsed)
    return new.write.t().to(post).view_as(post), taken


def _gated(module: nn.Module, streams: Tensor, returned: Any) -> tuple[Coefficients, Tensor]:
    """A gate per channel (arXiv:2608.30320): its mean over channels, over S, stands for the read weight."""
    of, count = cast(Any, module), streams.shape[1]
    normed = of.hc_norm(streams.flatten(1))
    hidden = functional.silu(of.input_mix_weight_down(normed) / count)
    gates = torch.sigmoid(of.input_mix_weight_up(hidden)).view_as(streams).float()
    write = returned[2].flatten(0, 1).t().float()
    taken = (gates * normed.view_as(streams).float()).mean(1)
    return Coefficients(gates.mean(2).t() / count, write, None), taken


def _rewritten_gated(returned: Any, new: Coefficients, streams: Tensor) -> Any:
    mixed, kept, write = returned
    return mixed, kept, new.write.t().to(write).view_as(write)


def _without_write(module: nn.Module) -> bool:
    return getattr(module, "block_inject_weight", None) is None


CONSTRAINED = Kind(True, _one_state_each, _constrained, lambda returned: returned[2], _rewritten)
INDEPENDENT = Kind(False, _one_state_each, _independent, lambda returned: returned[1], _rewritten_independent)
GATED = Kind(False, _side_by_side, _gated, lambda returned: returned[0], _rewritten_gated)
KINDS = {
    "DeepseekV4HyperConnection": CONSTRAINED,
    "Glm5NextTextHyperConnection": CONSTRAINED,
    "HYV4HyperConnection": INDEPENDENT,
    "Qwen4ExpTextGatedResidual": GATED,
}
READOUTS = frozenset({"DeepseekV4HyperHead", "Glm5NextTextHyperHead", "HYV4HyperHead"})
