"""The stream connection by torch.compile: the eager mathematics as a few loops that inductor writes and compiles.

Axes: N tokens, S streams, C width, K logits. Two graphs, from the streams to coefficients and read, and the write. They
take parameters as inputs and any number of tokens, so all layers of a model share them; what they make is kept below
build.cache_directory, for the next process.
"""

from __future__ import annotations

import functools
import os
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mhc_exp.config.variants import Gate, Mix, Streams
from mhc_exp.topology.layout import NORM_EPS, layout
from mhc_exp.torch.kernels.build import Unavailable, cache_directory
from mhc_exp.torch.kernels.eager import Eager
from mhc_exp.torch.kernels.fused import normalises, predicts
from mhc_exp.torch.sinkhorn import COLUMNS, ROWS
from mhc_exp.torch.wiring import Coefficients

if TYPE_CHECKING:
    from mhc_exp.torch.streams import HyperConnection

SAMPLE_TOKENS = 64
"""Tokens of the batch for which the graphs are made; they serve every other number too."""


class Compiled(Eager):
    """One model's tier. Raises Unavailable, also where inductor does not work.

    Without gradients (evaluation, generation) PyTorch's own operations compute: that would take two more graphs.
    """

    name = "compiled"

    def __init__(self, variant: Streams, width: int, device: torch.device):
        if not compiles(variant):
            raise Unavailable(
                "the compiled tier is for dynamic coefficients with norm=flat_rms and squash=none, and for the charts "
                "identity and sinkhorn by iterations, without a budget"
            )
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_directory().with_name("inductor")))
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # a pool of processes costs more than it saves here
        self._enter, self._write = _graphs(variant)
        before = time.perf_counter()
        try:
            self._make(variant, width, device)
        except Exception as reason:  # compilers and PyTorch raise what they like; the sentence says what it was
            said = next(iter(str(reason).strip().splitlines()), "no message")
            raise Unavailable(f"torch.compile does not work here ({type(reason).__name__}: {said})") from reason
        self.seconds = time.perf_counter() - before
        """What making the graphs took; a second or two where the cache has them."""

    def _make(self, variant: Streams, width: int, device: torch.device) -> None:
        """Both graphs, forward and backward."""
        from mhc_exp.torch.streams import HyperConnection

        with torch.enable_grad():
            connection = HyperConnection(variant, width).to(device)
            x = torch.zeros(SAMPLE_TOKENS, variant.streams, width, device=device, requires_grad=True)
            coefficients, u, x = self.enter(connection, x, None)
            streams = self.write(x, u, coefficients)
            torch.autograd.grad(streams.sum(), list(connection.parameters()), allow_unused=True)

    def enter(
        self, connection: HyperConnection, x: Tensor, known: Coefficients | None
    ) -> tuple[Coefficients, Tensor, Tensor]:
        if not _trained(x):
            return super().enter(connection, x, known)
        x = _any_tokens(x.contiguous(), 0)
        with torch.autocast(x.device.type, enabled=False):
            read, write, mix, u = self._enter(x, connection.weight, connection.scale, connection.bias)
        return Coefficients(read, write, mix), u, x

    def write(self, x: Tensor, y: Tensor, coefficients: Coefficients) -> Tensor:
        write, mix = coefficients.write, coefficients.mix
        static = write.shape[1] != len(x) or (mix is not None and mix.shape[2] != len(x))  # an intervention
        if static or not _trained(x):
            return super().write(x, y, coefficients)
        x, y = _any_tokens(x.contiguous(), 0), _any_tokens(y.to(x.dtype).contiguous(), 0)
        write, mix = _any_tokens(write, 1), None if mix is None else _any_tokens(mix, 2)
        with torch.autocast(x.device.type, enabled=False):
            return self._write(x, y, write, mix)


def compiles(variant: Streams) -> bool:
    """Whether the graphs compute this wiring: what the C kernels compute of it all, and its chart."""
    return predicts(variant) and (variant.mix.chart == "identity" or normalises(variant.mix))


def _trained(x: Tensor) -> bool:
    return torch.is_grad_enabled() and x.dtype is torch.float32


def _any_tokens(tensor: Tensor, axis: int) -> Tensor:
    """The tensor, of which the graphs may not assume the number of tokens."""
    torch._dynamo.maybe_mark_dynamic(tensor, axis)
    return tensor


@functools.cache
def _graphs(variant: Streams) -> tuple[Any, Any]:
    """(enter, write), compiled when they are first called; every model with this wiring in this process shares them."""
    enter = functools.partial(_enter, variant)
    return torch.compile(enter, fullgraph=True), torch.compile(_write, fullgraph=True)


def _enter(
    variant: Streams, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """(read [S, N], write [S, N], mix as applied [S, S, N], what the sublayer reads [N, C]) of x [N, S, C]."""
    sizes, spec = layout(variant), variant.mix
    flat = x.flatten(1)
    normed = (weight @ flat.t()) * torch.rsqrt(flat.square().mean(1) + NORM_EPS)
    scales = [scale[k] if k < len(scale) else scale.new_tensor(variant.alpha) for k in range(len(sizes.parts))]
    per_row = torch.cat([one.expand(size) for one, size in zip(scales, sizes.parts, strict=True)])
    raw = bias.unsqueeze(1) + per_row.unsqueeze(1) * normed
    read, write, logits = (raw[part] for part in sizes.slices)
    read, write = _gate(read, variant.read), _gate(write, variant.write)
    mix = None if spec.chart == "identity" else _sinkhorn(logits.view(variant.streams, variant.streams, -1), spec)
    return read, write, mix, (read.t().unsqueeze(2) * x).sum(1)


def _gate(raw: Tensor, spec: Gate) -> Tensor:
    weights = raw if spec.activation == "linear" else torch.sigmoid(raw)
    return (2 * weights if spec.activation == "two_sigmoid" else weights) + spec.eps


def _sinkhorn(square: Tensor, spec: Mix) -> Tensor:
    """The same truncated iterations as mhc_exp.torch.sinkhorn, as scalings u_i K_ij v_j of one matrix K [S, S, N]: a
    graph of 40 sums, where 40 log-softmaxes would take minutes to compile. From exp, the first whole iteration is in
    logarithms; after it every row and column has a sum of at least 1/S, so that nothing can vanish.
    """
    first, last = (COLUMNS, ROWS) if spec.order == "rows_last" else (ROWS, COLUMNS)
    if spec.start == "exp":
        matrix = square.log_softmax(first).log_softmax(last).exp()
    else:
        matrix = square.softmax(ROWS) + spec.eps
        matrix = matrix / (matrix.sum(last, keepdim=True) + spec.eps)
    by_first, by_last = (
        torch.ones_like(matrix.sum(first, keepdim=True)),
        torch.ones_like(matrix.sum(last, keepdim=True)),
    )
    for _ in range(spec.iterations - 1):
        by_first = _rescaled(by_first, (matrix * by_last).sum(first, keepdim=True), spec.eps)
        by_last = _rescaled(by_last, (matrix * by_first).sum(last, keepdim=True), spec.eps)
    matrix = matrix * by_first * by_last
    return matrix.transpose(0, 1) if spec.apply == "transposed" else matrix


def _rescaled(scaling: Tensor, sums: Tensor, eps: float) -> Tensor:
    """The scaling of rows or columns that divides them by their present sums, `scaling` x `sums`, plus eps."""
    return scaling / (scaling * sums + eps) if eps else 1 / sums


def _write(x: Tensor, y: Tensor, write: Tensor, mix: Tensor | None) -> Tensor:
    """x'_i = sum_j mix_ij x_j + write_i y, [N, S, C]; without `mix`, x_i + write_i y."""
    added = write.t().unsqueeze(2) * y.unsqueeze(1)
    if mix is None:
        return x + added
    return (mix.permute(2, 0, 1).unsqueeze(3) * x.unsqueeze(1)).sum(2) + added
