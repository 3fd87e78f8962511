"""Whether a tier computes what the eager one does on the device at hand: asked before kernels for GPUs are trusted."""

from __future__ import annotations

import torch
from torch import Tensor

from mhc_exp.config.variants import Streams
from mhc_exp.torch.kernels.eager import Eager
from mhc_exp.torch.streams import HyperConnection
from mhc_exp.torch.wiring import Coefficients

TOKENS, WIDTH = 48, 80
"""Small, with more than one program and a partly filled one, and divisible by 16 like most models."""


def difference(tier: Eager, variant: Streams, device: torch.device) -> float:
    """Largest error of outputs and gradients of a connection, each over its largest entry: float32 against float64."""
    errors = [0.0]
    expected = _outputs_and_gradients(Eager(), variant, torch.device("cpu"), torch.float64)
    found = _outputs_and_gradients(tier, variant, device, torch.float32)
    for exact, other in zip(expected, found, strict=True):
        error = (exact - other.to(exact)).abs().max() / exact.abs().max().clamp(min=1e-3)
        errors.append(float("inf") if error.isnan() else float(error))
    return max(errors)


def _outputs_and_gradients(tier: Eager, variant: Streams, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64).to(device, dtype)

    connection = HyperConnection(variant, WIDTH).to(device, dtype)
    with torch.no_grad():
        for name, parameter in connection.named_parameters():
            parameter.copy_(normal(*parameter.shape) * ((variant.streams * WIDTH) ** -0.5 if name == "weight" else 1.0))
    x, waiting = normal(TOKENS, variant.streams, WIDTH), normal(variant.streams, TOKENS)
    leaves = [x, *connection.parameters(), *([waiting] if variant.read_from == "previous" else [])]
    with torch.enable_grad():
        outputs = _connected(tier, connection, x.requires_grad_(), waiting.requires_grad_())
        loss = torch.stack([(output * normal(*output.shape)).sum() for output in outputs]).sum()
        gradients = torch.autograd.grad(loss, leaves, materialize_grads=True)
    return [value.detach() for value in (*outputs, *gradients)]


def _connected(tier: Eager, connection: HyperConnection, x: Tensor, waiting: Tensor) -> list[Tensor]:
    """The new streams around F(u) = sin u, and the coefficients; reads are `waiting` if a wiring wants earlier ones."""
    known = tier.prepare([connection])[0]
    coefficients: Coefficients
    if connection.variant.read_from == "previous":
        coefficients, x = tier.predict(connection, x, known)
        u, x = tier.read(x, waiting)
    else:
        coefficients, u, x = tier.enter(connection, x, known)
    streams = tier.write(x, torch.sin(u), coefficients)
    return [streams, *(part for part in coefficients if part is not None)]
