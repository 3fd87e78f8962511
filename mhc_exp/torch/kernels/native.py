"""The stream connection by the C kernels next to this file: float32 on a CPU, exact gradients, few passes over memory.

Axes: N tokens, S streams, C width, P coefficients (read S, write S, then the logits of the mixing).
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from mhc_exp.config.variants import Streams
from mhc_exp.topology.layout import NORM_EPS
from mhc_exp.torch.kernels.build import Library, library
from mhc_exp.torch.kernels.fused import ACTIVATIONS, Fused, Predicted, Scaling


class Native(Fused):
    """One model's tier: the kernels for its number of streams. Raises build.Unavailable."""

    name = "native"

    def __init__(self, variant: Streams):
        self.library = library(variant.streams)
        super().__init__(CKernels(self.library))


class CKernels:
    """fused.Kernels by a compiled library."""

    def __init__(self, compiled: Library):
        self.library = compiled

    def read_forward(self, x: Tensor, weights: Tensor) -> Tensor:
        u = x.new_empty(x.shape[0], x.shape[2])
        self.library.read_forward(*_pointers(x, weights), *self._sizes(x, weights), *_pointers(u))
        return u

    def read_backward(self, du: Tensor, before: Tensor | None, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        dx, dweights = torch.empty_like(x), torch.empty_like(weights)
        sizes = self._sizes(x, weights)
        self.library.read_backward(*_pointers(du, before, x, weights), *sizes, *_pointers(dweights, dx))
        return dx, dweights

    def write_forward(self, x: Tensor, y: Tensor, write: Tensor, mix: Tensor | None) -> Tensor:
        new = torch.empty_like(x)
        self.library.write_forward(*_pointers(x, y, write, mix), *self._sizes(x, write), *_pointers(new))
        return new

    def write_backward(
        self, dnew: Tensor, x: Tensor, y: Tensor, write: Tensor, mix: Tensor | None
    ) -> tuple[Tensor | None, Tensor, Tensor, Tensor | None]:
        dy, dwrite = torch.empty_like(y), torch.empty_like(write)
        dx, dmix = (None, None) if mix is None else (torch.empty_like(x), torch.empty_like(mix))
        sizes = self._sizes(x, write)
        self.library.write_backward(*_pointers(dnew, x, y, write, mix), *sizes, *_pointers(dy, dx, dwrite, dmix))
        return dx, dy, dwrite, dmix

    def sinkhorn_forward(self, logits: Tensor, how: Scaling) -> Tensor:
        mix = torch.empty_like(logits)
        self.library.sinkhorn_forward(ctypes.byref(self._scaling(how, logits)), *_pointers(logits, mix))
        return mix

    def sinkhorn_backward(self, logits: Tensor, dmix: Tensor, how: Scaling) -> Tensor:
        dlogits = torch.empty_like(logits)
        self.library.sinkhorn_backward(ctypes.byref(self._scaling(how, logits)), *_pointers(logits, dmix, dlogits))
        return dlogits

    def predict_forward(
        self, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, variant: Streams, reads: bool
    ) -> tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor, Tensor]:
        tokens, streams, width = x.shape
        total = len(bias)
        u = x.new_empty(tokens, width) if reads else None
        read, write, logits = (x.new_empty(rows, tokens) for rows in (streams, streams, total - 2 * streams))
        made = u, read, write, logits, x.new_empty(total, tokens), x.new_empty(tokens)
        spec = self._spec(variant, x, weight, scale)
        self.library.predict_forward(ctypes.byref(spec), *_pointers(x, weight, scale, bias, *made))
        return made

    def predict_backward(
        self, saved: Predicted, variant: Streams, arriving: tuple[Tensor | None, ...]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, weight, scale = saved[:3]
        found = (*(torch.empty_like(of) for of in (x, weight, scale)), x.new_empty(len(weight)))
        spec = self._spec(variant, x, weight, scale)
        self.library.predict_backward(ctypes.byref(spec), *_pointers(*saved, *arriving, *found))
        return found  # type: ignore[return-value]

    def _spec(self, variant: Streams, x: Tensor, weight: Tensor, scale: Tensor) -> _Spec:
        gates = (ACTIVATIONS[gate.activation] for gate in (variant.read, variant.write))
        offsets = variant.read.eps, variant.write.eps, NORM_EPS
        sizes = x.shape[0], x.shape[2], len(weight)
        return _Spec(*sizes, *gates, *offsets, len(scale), variant.alpha, self._threads())

    def _scaling(self, how: Scaling, logits: Tensor) -> _Scaling:
        return _Scaling(logits.shape[2], *(int(size) for size in how[:-1]), how.eps, self._threads())

    def _sizes(self, x: Tensor, weights: Tensor) -> tuple[ctypes.c_long, ctypes.c_long, ctypes.c_long, int]:
        """Arguments N, C, step (0 if one set of weights serves all tokens) and threads."""
        tokens, _, width = x.shape
        step = int(weights.shape[-1] != 1 or tokens == 1)
        return ctypes.c_long(tokens), ctypes.c_long(width), ctypes.c_long(step), self._threads()

    def _threads(self) -> int:
        return torch.get_num_threads() if self.library.threaded else 1


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
    """`Scaling` of sinkhorn.c: N, then fused.Scaling, then threads."""

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


def _pointers(*tensors: Tensor | None) -> list[ctypes.c_void_p]:
    """Addresses, of what the kernels can read: anything else would be nonsense or a crash."""
    for tensor in tensors:
        if tensor is not None and not (tensor.dtype is torch.float32 and tensor.is_cpu and tensor.is_contiguous()):
            raise TypeError(
                f"the native kernels take contiguous float32 tensors on the CPU, not {tensor.dtype} on {tensor.device}"
            )
    return [ctypes.c_void_p(None if tensor is None else tensor.data_ptr()) for tensor in tensors]
