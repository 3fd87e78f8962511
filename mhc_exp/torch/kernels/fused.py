"""The stream connection by fused kernels: what the tiers that bring their own have in common (native.py, gpu.py).

Axes: N tokens, S streams, C width, P coefficients (read S, write S, then the logits of the mixing).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mhc_exp.config.variants import Mix, Streams
from mhc_exp.torch.kernels.eager import Eager
from mhc_exp.torch.wiring import Coefficients

if TYPE_CHECKING:
    from mhc_exp.torch.streams import HyperConnection

ACTIVATIONS = {"linear": 0, "sigmoid": 1, "two_sigmoid": 2}
"""Gates that the kernels know."""


def predicts(variant: Streams) -> bool:
    """Whether the kernels compute this variant's coefficients; others are predicted by PyTorch."""
    gates = {variant.read.activation, variant.write.activation}
    return (
        variant.coefficients == "dynamic"
        and variant.norm == "flat_rms"
        and variant.squash == "none"
        and gates <= set(ACTIVATIONS)
    )


SMALLEST_EPS = 1e-12
"""From here on the softmax start hides entries that are too small for the kernels' exponential (1e-38)."""


def normalises(spec: Mix) -> bool:
    """Whether the kernels compute this chart; others are PyTorch's."""
    alternates = spec.chart == "sinkhorn" and spec.solver == "iterations" and spec.budget is None
    return alternates and (spec.eps == 0 if spec.start == "exp" else spec.eps >= SMALLEST_EPS)


START_EXP, START_COLUMN_SOFTMAX, START_ROW_SOFTMAX = range(3)


class Scaling(NamedTuple):
    """How the kernels spell the conventions of mhc_exp.torch.sinkhorn: rows are always last, if need be those of the
    transposed matrix.
    """

    start: int
    """exp (with one whole iteration, eps = 0), or DeepSeek's softmax + eps along columns or rows."""
    iterations: int
    """Whole iterations after that."""
    rows_first: bool
    """One more normalisation of the rows before them (DeepSeek)."""
    transposed: bool
    """All of it on the transposed matrix."""
    applied_transposed: bool
    """The result transposed."""
    eps: float


def scaling(spec: Mix) -> Scaling:
    """For a chart that `normalises`."""
    transposed, softmax = spec.order == "columns_last", spec.start == "softmax"
    start = START_EXP if not softmax else START_COLUMN_SOFTMAX if transposed else START_ROW_SOFTMAX
    return Scaling(start, spec.iterations - 1, softmax, transposed, spec.apply == "transposed", spec.eps)


class Kernels(Protocol):
    """One set of kernels. Tensors are contiguous; gradients that arrive may be None, for zero.

    Weights are [S, N] and mixes [S, S, N] for N tokens, or end with 1 if one set serves all tokens.
    """

    def read_forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """u [N, C] = sum_s weights_s x_s."""
        ...

    def read_backward(self, du: Tensor, before: Tensor | None, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """(dx, dweights); `before` is a gradient of x from elsewhere, which is added."""
        ...

    def write_forward(self, x: Tensor, y: Tensor, write: Tensor, mix: Tensor | None) -> Tensor:
        """x'_i = sum_j mix_ij x_j + write_i y; without `mix`, x_i + write_i y."""
        ...

    def write_backward(
        self, dnew: Tensor, x: Tensor, y: Tensor, write: Tensor, mix: Tensor | None
    ) -> tuple[Tensor | None, Tensor, Tensor, Tensor | None]:
        """(dx, dy, dwrite, dmix); dx and dmix are None without `mix`, when dx is `dnew`."""
        ...

    def sinkhorn_forward(self, logits: Tensor, how: Scaling) -> Tensor:
        """The matrix as applied [S, S, N] from logits [S, S, N]."""
        ...

    def sinkhorn_backward(self, logits: Tensor, dmix: Tensor, how: Scaling) -> Tensor:
        """dlogits: the gradient of exactly these iterations."""
        ...

    def predict_forward(
        self, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, variant: Streams, reads: bool
    ) -> tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(u, None unless `reads`; read; write; logits [P - 2S, N]; normed [P, N], the projection of the normalised x;
        inverse [N], 1 over its root mean square).
        """
        ...

    def predict_backward(
        self, saved: Predicted, variant: Streams, arriving: tuple[Tensor | None, ...]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(dx, dweight, dscale, dbias) from the gradients of u, read, write, logits and, from elsewhere, of x."""
        ...


class Predicted(NamedTuple):
    """What `predict_backward` needs of the forward pass."""

    x: Tensor
    weight: Tensor
    scale: Tensor
    read: Tensor
    write: Tensor
    normed: Tensor
    inverse: Tensor


class Fused(Eager):
    """A tier around a set of kernels."""

    def __init__(self, kernels: Kernels):
        self.kernels = kernels

    def predict(
        self, connection: HyperConnection, x: Tensor, known: Coefficients | None
    ) -> tuple[Coefficients, Tensor]:
        if not predicts(connection.variant):
            return super().predict(connection, x, known)
        coefficients, _, x = self._predicted(connection, x, reads=False)
        return coefficients, x

    def enter(
        self, connection: HyperConnection, x: Tensor, known: Coefficients | None
    ) -> tuple[Coefficients, Tensor, Tensor]:
        if not predicts(connection.variant):
            return super().enter(connection, x, known)
        return self._predicted(connection, x, reads=True)

    def _predicted(self, connection: HyperConnection, x: Tensor, reads: bool) -> tuple[Coefficients, Any, Tensor]:
        """Coefficients, what they read ([N, C], None unless `reads`), and x, in one pass over the streams."""
        variant, parameters = connection.variant, (connection.weight, connection.scale, connection.bias)
        u, read, write, logits, x = _Predict.apply(x, *parameters, self.kernels, variant, reads)  # type: ignore[misc]
        if variant.mix.chart == "identity":
            return Coefficients(read, write, None), u, x
        return Coefficients(read, write, self.mix(logits, variant.streams, variant.mix, connection.share)), u, x

    def read(self, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        return _Read.apply(x, weights, self.kernels)  # type: ignore[return-value]

    def mix(self, logits: Tensor, streams: int, spec: Mix, share: float) -> Tensor:
        if share != 1.0 or not normalises(spec):
            return super().mix(logits, streams, spec, share)
        return _Sinkhorn.apply(logits.view(streams, streams, -1), self.kernels, scaling(spec))  # type: ignore[return-value]

    def write(self, x: Tensor, y: Tensor, coefficients: Coefficients) -> Tensor:
        write, mix = coefficients.write, coefficients.mix
        if mix is not None and mix.shape[2] != write.shape[1]:  # one of them was made static: an intervention
            mix, write = mix.expand(-1, -1, len(x)), write.expand(-1, len(x))
        return _Write.apply(x, y.to(x.dtype), write, mix, self.kernels)  # type: ignore[return-value]


class _Predict(torch.autograd.Function):
    """(x, weight, scale, bias) -> (u or None, read, write, logits, x)."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor,
        kernels: Kernels,
        variant: Streams,
        reads: bool,
    ):
        x, weight = x.contiguous(), weight.contiguous()
        made = kernels.predict_forward(x, weight, scale, bias, variant, reads)
        u, read, write, logits, normed, inverse = made
        ctx.save_for_backward(*Predicted(x, weight, scale, read, write, normed, inverse))
        ctx.kernels, ctx.variant = kernels, variant
        ctx.set_materialize_grads(False)
        return u, read, write, logits, x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None):  # type: ignore[override]
        arriving = tuple(None if gradient is None else gradient.contiguous() for gradient in gradients)
        return *ctx.kernels.predict_backward(Predicted(*ctx.saved_tensors), ctx.variant, arriving), None, None, None


class _Read(torch.autograd.Function):
    """(x, weights [S, N] or [S, 1]) -> (sum of the streams by the weights [N, C], x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, kernels: Kernels):  # type: ignore[override]
        x, weights = x.contiguous(), weights.contiguous()
        u = kernels.read_forward(x, weights)
        ctx.save_for_backward(x, weights)
        ctx.kernels = kernels
        ctx.set_materialize_grads(False)
        return u, x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, du: Tensor | None, before: Tensor | None):  # type: ignore[override]
        if du is None:
            return before, None, None
        before = None if before is None else before.contiguous()
        return *ctx.kernels.read_backward(du.contiguous(), before, *ctx.saved_tensors), None


class _Write(torch.autograd.Function):
    """(x, y [N, C], write [S, N] or [S, 1], mix [S, S, N] or [S, S, 1] or None) -> the new streams [N, S, C]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, write: Tensor, mix: Tensor | None, kernels: Kernels):  # type: ignore[override]
        x, y, write = x.contiguous(), y.contiguous(), write.contiguous()
        mix = None if mix is None else mix.contiguous()
        new = kernels.write_forward(x, y, write, mix)
        ctx.save_for_backward(x, y, write, mix)
        ctx.kernels = kernels
        return new

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dnew: Tensor):  # type: ignore[override]
        dnew = dnew.contiguous()
        dx, dy, dwrite, dmix = ctx.kernels.write_backward(dnew, *ctx.saved_tensors)
        return dnew if dx is None else dx, dy, dwrite, dmix, None


class _Sinkhorn(torch.autograd.Function):
    """Logits [S, S, N] -> the mixing matrix as applied [S, S, N]; the gradient of the truncated iterations."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, kernels: Kernels, how: Scaling):  # type: ignore[override]
        logits = logits.contiguous()
        ctx.save_for_backward(logits)
        ctx.kernels, ctx.how = kernels, how
        return kernels.sinkhorn_forward(logits, how)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dmix: Tensor):  # type: ignore[override]
        (logits,) = ctx.saved_tensors
        return ctx.kernels.sinkhorn_backward(logits, dmix.contiguous(), ctx.how), None, None
