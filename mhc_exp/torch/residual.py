"""Wirings that keep one stream, in PyTorch. Mirrors mlx/residual.py; the specification is topology.reference.residual.

Axes: B batch, T time, C width, r rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mhc_exp.config.variants import Residual
from mhc_exp.topology.residual import gate_index, parameter_shapes, skip_scale
from mhc_exp.torch.recompute import Policy, in_blocks
from mhc_exp.torch.wiring import Observer, Sublayer


class ResidualStream(nn.Module):
    """One stream: x <- skip(x) + gate F(x), with the norm before the sublayer, after the addition or nowhere.

    Parameters are described in mhc_exp.topology.residual.parameter_shapes and start at zero: load its values.
    """

    def __init__(self, variant: Residual, width: int, depth: int):
        super().__init__()
        self.variant, self.scale = variant, skip_scale(variant, depth)
        self.recompute: Policy | None = None
        """Sublayers per block that is computed again for its gradients; torch.recompute.install sets it."""
        shapes = parameter_shapes(variant, width, depth)
        if variant.gate.shape != "none":
            gates = (shape for name, shape in shapes.items() if name.startswith("gates."))
            self.gates = nn.ParameterList(nn.Parameter(torch.zeros(shape)) for shape in gates)
        if variant.laurel.terms != "none":
            built = nn.ModuleList(LaurelSkip(variant, width) for _ in range(2 * depth))
            self.laurels: Sequence[LaurelSkip] = built  # type: ignore[assignment]

    def forward(self, x: Tensor, sublayers: Sequence[Sublayer], observe: Observer | None = None) -> Tensor:
        (x,) = in_blocks(self.pass_through, list(enumerate(sublayers)), self.recompute and self.recompute.length, x)
        return x

    def pass_through(self, steps: Sequence[tuple[int, Sublayer]], x: Tensor) -> tuple[Tensor]:
        """The stream [B, T, C] after these sublayers."""
        for index, sublayer in steps:
            y = sublayer(x) if self.variant.norm == "pre" else sublayer.inner(x)
            x = self.join(index, x, y)
            if self.variant.norm == "post":
                x = sublayer.norm(x)
        return (x,)

    def join(self, index: int, x: Tensor, y: Tensor) -> Tensor:
        """The stream [B, T, C] after sublayer `index`, which has put out y [B, T, C]."""
        if self.variant.gate.shape != "none":
            y = self.gates[gate_index(self.variant, index)] * y
        if self.variant.skip == "none":
            return y
        if self.variant.skip == "deepnorm":
            x = self.scale * x
        return x + y if self.variant.laurel.terms == "none" else self.laurels[index](x, y)


class LaurelSkip(nn.Module):
    """a y + b (x + B A x) (arXiv:2411.07501 eq. 2-4), always in the precision of x."""

    def __init__(self, variant: Residual, width: int):
        super().__init__()
        self.spec, rank = variant.laurel, variant.laurel.rank
        if self.spec.terms in ("rw", "rw_lr"):
            self.weights = nn.Parameter(torch.zeros(2))
        if self.spec.terms in ("lr", "rw_lr"):
            self.down = nn.Parameter(torch.zeros(rank, width))
            self.up = nn.Parameter(torch.zeros(width, rank))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.spec.terms in ("lr", "rw_lr"):
            with torch.autocast(x.device.type, enabled=False):  # which would run in bfloat16
                x = x + functional.linear(functional.linear(x, self.down), self.up)
        if self.spec.terms in ("rw", "rw_lr"):
            a, b = self.bounded().unsqueeze(1)  # [1] each: a scalar would leave a bfloat16 y in bfloat16
            return a * y + b * x
        return x + y

    def bounded(self) -> Tensor:
        """a and b [2] from their logits."""
        if self.spec.weights == "free":
            return 1 + self.weights
        return 2 * (self.weights.softmax(0) if self.spec.weights == "softmax" else self.weights.sigmoid())
