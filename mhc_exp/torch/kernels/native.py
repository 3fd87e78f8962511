"""The stream connection by the C kernels next to this file: float32 on a CPU, exact gradients, few passes over memory.

Axes: N tokens, S streams, C width, P coefficients (read S, write S, then the logits of the mixing).
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mhc_exp.config.variants import Gate, Mix, Streams
from mhc_exp.topology.layout import NORM_EPS
from mhc_exp.torch.kernels.build import Library, library
from mhc_exp.torch.kernels.eager import Eager
from mhc_exp.torch.wiring import Coefficients

if TYPE_CHECKING:
    from mhc_exp.torch.streams import HyperConnection

ACTIVATIONS = {"linear": 0, "sigmoid": 1, "two_sigmoid": 2}
"""Gates that predict.c knows."""


def predicts(variant: Streams) -> bool:
    """Whether predict.c computes this variant's coefficients; others are predicted by PyTorch."""
    gates = {variant.read.activation, variant.write.activation}
    return (
        variant.coefficients == "dynamic"
        and variant.norm == "flat_rms"
        and variant.squash == "none"
        and gates <= set(ACTIVATIONS)
    )


def normalises(spec: Mix) -> bool:
    """Whether sinkhorn.c computes this chart; others are PyTorch's."""
    return spec.chart == "sinkhorn" and spec.solver == "iterations" and (spec.start == "softmax" or spec.eps == 0)


class Native(Eager):
    """One model's tier: the kernels for its number of streams. Raises build.Unavailable."""

    name = "native"

    def __init__(self, variant: Streams):
        self.library = library(variant.streams)

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
        u, read, write, logits, x = _Predict.apply(x, *parameters, self.library, variant, reads)  # type: ignore[misc]
        if variant.mix.chart == "identity":
            return Coefficients(read, write, None), u, x
        return Coefficients(read, write, self.mix(logits, variant.streams, variant.mix, connection.share)), u, x

    def read(self, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        return _Read.apply(x, weights, self.library)  # type: ignore[return-value]

    def mix(self, logits: Tensor, streams: int, spec: Mix, share: float) -> Tensor:
        if share != 1.0 or not normalises(spec):
            return super().mix(logits, streams, spec, share)
        return _Sinkhorn.apply(logits.view(streams, streams, -1), self.library, spec)  # type: ignore[return-value]

    def write(self, x: Tensor, y: Tensor, coefficients: Coefficients) -> Tensor:
        write, mix = coefficients.write, coefficients.mix
        if mix is not None and mix.shape[2] != write.shape[1]:  # one of them was made static: an intervention
            mix, write = mix.expand(-1, -1, len(x)), write.expand(-1, len(x))
        return _Write.apply(x, y.to(x.dtype), write, mix, self.library)  # type: ignore[return-value]


class _Spec(ctypes.Structure):
    """`Spec` of predict.c."""

    _fields_ = (
        ("N", ctypes.c_long),
        ("C", ctypes.c_long),
        ("P", ctypes.c_long),
        ("read", ctypes.c_int),
        ("write", ctypes.c_int),
        ("read_eps", ctypes.c_float),
        ("write_eps", ctypes.c_float),
        ("norm_eps", ctypes.c_float),
        ("scales", ctypes.c_int),
        ("alpha", ctypes.c_float),
        ("threads", ctypes.c_int),
    )


class _Scaling(ctypes.Structure):
    """`Scaling` of sinkhorn.c."""

    _fields_ = (
        ("N", ctypes.c_long),
        ("start", ctypes.c_int),
        ("iterations", ctypes.c_int),
        ("rows_first", ctypes.c_int),
        ("transposed", ctypes.c_int),
        ("applied_transposed", ctypes.c_int),
        ("eps", ctypes.c_float),
        ("threads", ctypes.c_int),
    )


class _Predict(torch.autograd.Function):
    """(x, weight, scale, bias) -> (u or None, read, write, logits, x)."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor,
        kernels: Library,
        variant: Streams,
        reads: bool,
    ):
        x, weight = x.contiguous(), weight.contiguous()
        tokens, streams, width = x.shape
        total = len(bias)
        spec = _spec(variant, tokens, width, total, len(scale), kernels)
        u = x.new_empty(tokens, width) if reads else None
        read, write, logits = (x.new_empty(rows, tokens) for rows in (streams, streams, total - 2 * streams))
        normed, inverse = x.new_empty(total, tokens), x.new_empty(tokens)
        made = (u, read, write, logits, normed, inverse)
        kernels.predict_forward(ctypes.byref(spec), *_pointers(x, weight, scale, bias, *made))
        ctx.save_for_backward(x, weight, scale, read, write, normed, inverse)
        ctx.kernels, ctx.spec = kernels, spec
        ctx.set_materialize_grads(False)
        return u, read, write, logits, x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None):  # type: ignore[override]
        x, weight, scale, read, write, normed, inverse = ctx.saved_tensors
        arriving = [None if gradient is None else gradient.contiguous() for gradient in gradients]
        dx, dweight, dscale = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(scale)
        dbias = x.new_empty(ctx.spec.P)
        saved = _pointers(x, weight, scale, read, write, normed, inverse)
        ctx.kernels.predict_backward(ctypes.byref(ctx.spec), *saved, *_pointers(*arriving, dx, dweight, dscale, dbias))
        return dx, dweight, dscale, dbias, None, None, None


class _Read(torch.autograd.Function):
    """(x, weights [S, N] or [S, 1]) -> (sum of the streams by the weights [N, C], x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, kernels: Library):  # type: ignore[override]
        x, weights = x.contiguous(), weights.contiguous()
        tokens, _, width = x.shape
        u = x.new_empty(tokens, width)
        kernels.read_forward(*_pointers(x, weights), *_sizes(x, weights, kernels), *_pointers(u))
        ctx.save_for_backward(x, weights)
        ctx.kernels = kernels
        ctx.set_materialize_grads(False)
        return u, x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, du: Tensor | None, before: Tensor | None):  # type: ignore[override]
        if du is None:
            return before, None, None
        x, weights = ctx.saved_tensors
        du, before = du.contiguous(), None if before is None else before.contiguous()
        dx, dweights = torch.empty_like(x), torch.empty_like(weights)
        sizes = _sizes(x, weights, ctx.kernels)
        ctx.kernels.read_backward(*_pointers(du, before, x, weights), *sizes, *_pointers(dweights, dx))
        return dx, dweights, None


class _Write(torch.autograd.Function):
    """(x, y [N, C], write [S, N] or [S, 1], mix [S, S, N] or [S, S, 1] or None) -> the new streams [N, S, C]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, write: Tensor, mix: Tensor | None, kernels: Library):  # type: ignore[override]
        x, y, write = x.contiguous(), y.contiguous(), write.contiguous()
        mix = None if mix is None else mix.contiguous()
        new = torch.empty_like(x)
        kernels.write_forward(*_pointers(x, y, write, mix), *_sizes(x, write, kernels), *_pointers(new))
        ctx.save_for_backward(x, y, write, mix)
        ctx.kernels = kernels
        return new

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dnew: Tensor):  # type: ignore[override]
        x, y, write, mix = ctx.saved_tensors
        dnew = dnew.contiguous()
        dy, dwrite = torch.empty_like(y), torch.empty_like(write)
        dx, dmix = (None, None) if mix is None else (torch.empty_like(x), torch.empty_like(mix))
        sizes = _sizes(x, write, ctx.kernels)
        ctx.kernels.write_backward(*_pointers(dnew, x, y, write, mix), *sizes, *_pointers(dy, dx, dwrite, dmix))
        return dnew if dx is None else dx, dy, dwrite, dmix, None


class _Sinkhorn(torch.autograd.Function):
    """Logits [S, S, N] -> the mixing matrix as applied [S, S, N]; the gradient of the truncated iterations."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, kernels: Library, spec: Mix):  # type: ignore[override]
        logits, mix = logits.contiguous(), torch.empty_like(logits)
        ctx.scaling = _scaling(spec, logits.shape[2], kernels)
        kernels.sinkhorn_forward(ctypes.byref(ctx.scaling), *_pointers(logits, mix))
        ctx.save_for_backward(logits)
        ctx.kernels = kernels
        return mix

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dmix: Tensor):  # type: ignore[override]
        (logits,) = ctx.saved_tensors
        dmix, dlogits = dmix.contiguous(), torch.empty_like(logits)
        ctx.kernels.sinkhorn_backward(ctypes.byref(ctx.scaling), *_pointers(logits, dmix, dlogits))
        return dlogits, None, None


def _spec(variant: Streams, tokens: int, width: int, total: int, scales: int, kernels: Library) -> _Spec:
    def gate(spec: Gate) -> int:
        return ACTIVATIONS[spec.activation]

    gates = gate(variant.read), gate(variant.write), variant.read.eps, variant.write.eps
    return _Spec(tokens, width, total, *gates, NORM_EPS, scales, variant.alpha, _threads(kernels))


def _scaling(spec: Mix, tokens: int, kernels: Library) -> _Scaling:
    """How sinkhorn.c spells the conventions of mhc_exp.torch.sinkhorn: with columns last, on the transposed matrix."""
    transposed, softmax = spec.order == "columns_last", spec.start == "softmax"
    start = 0 if not softmax else 1 if transposed else 2
    sizes = start, spec.iterations - 1, softmax, transposed, spec.apply == "transposed"
    return _Scaling(tokens, *(int(size) for size in sizes), spec.eps, _threads(kernels))


def _threads(kernels: Library) -> int:
    return torch.get_num_threads() if kernels.threaded else 1


def _sizes(x: Tensor, weights: Tensor, kernels: Library) -> tuple[ctypes.c_long, ctypes.c_long, ctypes.c_long, int]:
    """Arguments N, C, step (0 if one set of weights serves all tokens) and threads."""
    tokens, _, width = x.shape
    step = int(weights.shape[-1] != 1 or tokens == 1)
    return ctypes.c_long(tokens), ctypes.c_long(width), ctypes.c_long(step), _threads(kernels)


def _pointers(*tensors: Tensor | None) -> list[ctypes.c_void_p]:
    """Addresses, of what the kernels can read: anything else would be nonsense or a crash."""
    for tensor in tensors:
        if tensor is not None and not (tensor.dtype is torch.float32 and tensor.is_cpu and tensor.is_contiguous()):
            raise TypeError(
                f"the native kernels take contiguous float32 tensors on the CPU, not {tensor.dtype} on {tensor.device}"
            )
    return [ctypes.c_void_p(None if tensor is None else tensor.data_ptr()) for tensor in tensors]
