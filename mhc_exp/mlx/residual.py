"""Wirings that keep one stream, in MLX. Mirrors torch/residual.py; the specification is topology.reference.residual.

Axes: B batch, T time, C width, r rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
from mlx import nn

from mhc_exp.config.variants import Residual
from mhc_exp.mlx.recompute import Step, in_blocks
from mhc_exp.mlx.wiring import Observer, Sublayer
from mhc_exp.topology.residual import gate_index, parameter_shapes, skip_scale


class ResidualStream(nn.Module):
    """One stream: x <- skip(x) + gate F(x), with the norm before the sublayer, after the addition or nowhere.

    Parameters are described in mhc_exp.topology.residual.parameter_shapes and start at zero: load its values.
    """

    def __init__(self, variant: Residual, width: int, depth: int):
        super().__init__()
        self._variant, self._scale = variant, skip_scale(variant, depth)
        self._recompute: int | None = None
        """Sublayers per block that is computed again for its gradients; mlx.recompute.install puts a number here."""
        shapes = parameter_shapes(variant, width, depth)
        if variant.gate.shape != "none":
            gates = (shape for name, shape in shapes.items() if name.startswith("gates."))
            self.gates = [mx.zeros(shape) for shape in gates]
        if variant.laurel.terms != "none":
            self.laurels = [LaurelSkip(variant, width) for _ in range(2 * depth)]

    def __call__(self, x: mx.array, sublayers: Sequence[Sublayer], observe: Observer | None = None) -> mx.array:
        steps = [Step(self.modules_of(index, own), index, self.gate(index)) for index, own in enumerate(sublayers)]
        (x,) = in_blocks(self.pass_through, steps, self._recompute, x)
        return x

    def modules_of(self, index: int, sublayer: Sublayer) -> tuple[Sublayer | LaurelSkip, ...]:
        """The sublayer, and what is added to its skip."""
        return (sublayer,) if self._variant.laurel.terms == "none" else (sublayer, self.laurels[index])

    def gate(self, index: int) -> mx.array | None:
        """The factor on what sublayer `index` adds, if there is one."""
        return None if self._variant.gate.shape == "none" else self.gates[gate_index(self._variant, index)]

    def pass_through(self, steps: Sequence[Step], x: mx.array) -> tuple[mx.array]:
        """The stream [B, T, C] after these sublayers."""
        for step in steps:
            sublayer = step.modules[0]
            y = sublayer(x) if self._variant.norm == "pre" else sublayer.inner(x)
            x = self.join(step.call, x, y, step.known)
            if self._variant.norm == "post":
                x = sublayer.norm(x)
        return (x,)

    def join(self, index: int, x: mx.array, y: mx.array, gate: mx.array | None) -> mx.array:
        """The stream [B, T, C] after sublayer `index`, which has put out y [B, T, C]."""
        if gate is not None:
            y = gate * y
        if self._variant.skip == "none":
            return y
        if self._variant.skip == "deepnorm":
            x = self._scale * x
        return x + y if self._variant.laurel.terms == "none" else self.laurels[index](x, y)


class LaurelSkip(nn.Module):
    """a y + b (x + B A x) (arXiv:2411.07501 eq. 2-4), always in the precision of x."""

    def __init__(self, variant: Residual, width: int):
        super().__init__()
        self._spec, rank = variant.laurel, variant.laurel.rank
        if self._spec.terms in ("rw", "rw_lr"):
            self.weights = mx.zeros((2,))
        if self._spec.terms in ("lr", "rw_lr"):
            self.down = mx.zeros((rank, width))
            self.up = mx.zeros((width, rank))

    def __call__(self, x: mx.array, y: mx.array) -> mx.array:
        if self._spec.terms in ("lr", "rw_lr"):
            x = x + x @ self.down.T @ self.up.T
        if self._spec.terms in ("rw", "rw_lr"):
            a, b = self.bounded()
            return a * y + b * x
        return x + y

    def bounded(self) -> mx.array:
        """a and b [2] from their logits."""
        if self._spec.weights == "free":
            return 1 + self.weights
        return 2 * (mx.softmax(self.weights, axis=0) if self._spec.weights == "softmax" else mx.sigmoid(self.weights))
