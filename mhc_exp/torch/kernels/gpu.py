"""The stream connection by Triton kernels, for CUDA: streams in float32 or bfloat16, coefficients in float32.

With bfloat16 streams, what a sublayer reads and writes and all their gradients are bfloat16 too; sums are float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mhc_exp.config import machine
from mhc_exp.config.checks import NATIVE_STREAMS
from mhc_exp.config.variants import Streams
from mhc_exp.torch.kernels.build import Unavailable
from mhc_exp.torch.kernels.fused import Fused, Predicted, Scaling
from mhc_exp.torch.kernels.proof import difference

TOLERANCE = 1e-5
"""Largest difference from PyTorch in float64 with which the kernels are trusted."""


class Triton(Fused):
    """One model's tier. Raises build.Unavailable, also where the kernels do not run or are wrong on this device."""

    name = "native"

    def __init__(self, variant: Streams, device: torch.device):
        if variant.streams not in NATIVE_STREAMS:
            raise Unavailable(
                f"the native kernels are for {NATIVE_STREAMS[0]} to {NATIVE_STREAMS[-1]} streams, not {variant.streams}"
            )
        if not machine.installed("triton"):
            raise Unavailable("the package triton is not installed")
        try:
            super().__init__(TritonKernels())
            error = difference(self, variant, device)
        except Exception as reason:  # compilers, drivers and Triton raise what they like; the sentence says what it was
            said = next(iter(str(reason).strip().splitlines()), "no message")
            raise Unavailable(f"the Triton kernels do not run here ({type(reason).__name__}: {said})") from reason
        if error > TOLERANCE:
            raise Unavailable(f"the Triton kernels differ from PyTorch by {error:.1e} here")


class TritonKernels:
    """fused.Kernels by mhc_exp.torch.kernels.triton_kernels, which this imports."""

    def __init__(self):
        from mhc_exp.torch.kernels.triton_kernels import predict, sinkhorn, streams

        self._predict, self._sinkhorn, self._streams = predict, sinkhorn, streams

    def read_forward(self, x: Tensor, weights: Tensor) -> Tensor:
        _check(weights, streams=(x,))
        return self._streams.read_forward(x, weights)

    def read_backward(self, du: Tensor, before: Tensor | None, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        _check(weights, streams=(x, du, before))
        return self._streams.read_backward(du, before, x, weights)

    def write_forward(self, x: Tensor, y: Tensor, write: Tensor, mix: Tensor | None) -> Tensor:
        _check(write, mix, streams=(x, y))
        return self._streams.write_forward(x, y, write, mix)

    def write_backward(
        self, dnew: Tensor, x: Tensor, y: Tensor, write: Tensor, mix: Tensor | None
    ) -> tuple[Tensor | None, Tensor, Tensor, Tensor | None]:
        _check(write, mix, streams=(x, y, dnew))
        return self._streams.write_backward(dnew, x, y, write, mix)

    def sinkhorn_forward(self, logits: Tensor, how: Scaling) -> Tensor:
        _check(logits)
        return self._sinkhorn.sinkhorn_forward(logits, how)

    def sinkhorn_backward(self, logits: Tensor, dmix: Tensor, how: Scaling) -> Tensor:
        _check(logits, dmix)
        return self._sinkhorn.sinkhorn_backward(logits, dmix, how)

    def predict_forward(
        self, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, variant: Streams, reads: bool
    ) -> tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor, Tensor]:
        _check(weight, scale, bias, streams=(x,))
        return self._predict.predict_forward(x, weight, scale, bias, variant, reads)

    def predict_backward(
        self, saved: Predicted, variant: Streams, arriving: tuple[Tensor | None, ...]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        du, dread, dwrite, dlogits, before = arriving
        _check(dread, dwrite, dlogits, streams=(du, before))
        return self._predict.predict_backward(saved, variant, arriving)


def _check(*coefficients: Tensor | None, streams: tuple[Tensor | None, ...] = ()) -> None:
    """What the kernels can read: anything else would be nonsense or a crash."""
    for tensors, allowed in ((coefficients, (torch.float32,)), (streams, (torch.float32, torch.bfloat16))):
        for tensor in tensors:
            if tensor is not None and not (tensor.dtype in allowed and tensor.is_contiguous()):
                raise TypeError(
                    "the Triton kernels take contiguous float32 tensors (streams may be bfloat16), not "
                    f"{'' if tensor.is_contiguous() else 'strided '}{tensor.dtype}"
                )
