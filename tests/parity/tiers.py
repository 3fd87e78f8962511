"""One connection by any tier against the eager one in float64, for the tests of tiers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mhc_exp.config.compose import compose
from mhc_exp.config.variants import Streams
from mhc_exp.torch.kernels.eager import Eager
from mhc_exp.torch.kernels.native import Native
from mhc_exp.torch.streams import HyperConnection

TOLERANCE = 2e-6
"""Largest error over the largest entry, float32 against float64."""

CASES = {
    "mhc": ["variant=mhc"],
    "mhc static": ["variant=mhc", "variant.coefficients=static"],
    "columns last": ["variant=mhc", "variant.mix.order=columns_last", "variant.mix.apply=transposed"],
    "one iteration": ["variant=mhc", "variant.mix.iterations=1"],
    "gates with eps": ["variant=mhc", "variant.read.eps=0.5", "variant.write.eps=0.25"],
    "softmax start without eps": ["variant=deepseek_v4", "variant.mix.eps=0.0"],
    "softmax start, rows last": ["variant=deepseek_v4", "variant.mix.order=rows_last"],
    "identity_hc": ["variant=identity_hc"],
    "identity static": ["variant=identity_hc", "variant.coefficients=static"],
    "deepseek_v4": ["variant=deepseek_v4"],
    "deepseek_v41": ["variant=deepseek_v41"],
    "hc": ["variant=hc"],
    "oHC": ["variant=ohc"],
}


def variant_of(case: str, streams: int) -> Streams:
    variant = compose([*CASES[case], "backend=cpu"]).variant
    assert isinstance(variant, Streams)
    return variant if case == "oHC" else dataclasses.replace(variant, streams=streams)


def step(tier: Eager, connection: HyperConnection, x: Tensor, waiting: Tensor | None) -> list[Tensor]:
    """One connection around F(u) = sin u: the new streams, and everything that may be used elsewhere."""
    known = tier.prepare([connection])[0]
    if waiting is None:
        coefficients, u, x = tier.enter(connection, x, known)
    else:
        coefficients, x = tier.predict(connection, x, known)
        u, x = tier.read(x, waiting)
    streams = tier.write(x, torch.sin(u), coefficients)
    return [streams, u, *(part for part in coefficients if part is not None)]


def compared(
    case: str,
    streams: int,
    width: int,
    tokens: int,
    seed: int,
    spread: float = 1.0,
    tier: Callable[[Streams], Eager] = Native,
    device: str = "cpu",
) -> float:
    """The largest relative error of outputs and gradients in float32 of the native tier, or of another."""
    variant = variant_of(case, streams)
    reads_previous = variant.read_from == "previous"

    def run(tier: Eager, dtype: torch.dtype, device: str) -> list[Tensor]:
        own = np.random.default_rng(seed + 1)

        def tensor(*shape: int, scale: float = 1.0) -> Tensor:
            return torch.tensor(scale * own.standard_normal(shape), dtype=dtype).to(device)

        connection = HyperConnection(variant, width).to(device, dtype)
        with torch.no_grad():
            for name, parameter in connection.named_parameters():
                scale = (streams * width) ** -0.5 if name == "weight" else 1.0
                parameter.copy_(tensor(*parameter.shape, scale=scale * spread))
        x = tensor(tokens, variant.streams, width).requires_grad_()
        waiting = tensor(variant.streams, tokens).requires_grad_() if reads_previous else None
        outputs = step(tier, connection, x, waiting)
        loss = sum((output * tensor(*output.shape)).sum() for output in outputs)
        leaves = [x, *connection.parameters(), *([] if waiting is None else [waiting])]
        gradients = torch.autograd.grad(loss, leaves, materialize_grads=True)  # type: ignore[arg-type]
        return [value.detach().cpu().double() for value in (*outputs, *gradients)]

    expected, found = run(Eager(), torch.float64, "cpu"), run(tier(variant), torch.float32, device)
    errors = []
    for e, f in zip(expected, found, strict=True):
        assert e.shape == f.shape
        errors.append(float((e - f).abs().max() / e.abs().max().clamp(min=1e-3)))
    return max(errors)
