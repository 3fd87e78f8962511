"""Connections of families other than `streams`, in PyTorch's operations; and which one a variant needs.

Axes: * any leading axes, N all of them together, S streams or segments, C width, W width of a segment.
"""

from __future__ import annotations

from typing import Any, get_args

from torch import Tensor

from mhc_exp.config.standalone import Standalone, check_width, check_word
from mhc_exp.config.variants import Segments, Sparse, Streams
from mhc_exp.topology import segments as segment_values
from mhc_exp.topology import sparse as sparse_values
from mhc_exp.topology.layout import mixing_share
from mhc_exp.torch import segments, sparse
from mhc_exp.torch.kernels.build import Unavailable
from mhc_exp.torch.library.connection import Connection, Entered, Kernels, StreamConnection
from mhc_exp.torch.wiring import Coefficients


def connect(
    variant: Standalone, width: int, index: int = 0, count: int = 1, *, seed: int = 0, kernels: Kernels = "auto"
) -> Connection:
    """Connection number `index` of `count` of a checked variant. Raises ConfigError if it cannot divide the width."""
    check_width(variant, width)
    check_word("kernels", kernels, get_args(Kernels))
    if isinstance(variant, Streams):
        return StreamConnection(variant, width, index, count, seed=seed, kernels=kernels)
    if kernels == "native":
        raise Unavailable(
            f"kernels='native' cannot be had here: family {variant.family} has none of its own; type kernels='auto'"
        )
    kind = SegmentConnection if isinstance(variant, Segments) else SparseConnection
    return kind(variant, width, index, count, seed)  # type: ignore[arg-type]


class _Routed(Connection):
    """What has `routes`, and reads and writes by them."""

    inner: Any
    """The class of the laboratory's connection."""

    def _enter(self, x: Tensor) -> tuple[Tensor, Entered]:
        found = self.inner.routes(self, x)
        return self.inner.read(self, x, found), Entered(x, found)

    def _leave(self, entered: Entered, y: Tensor) -> Tensor:
        return self.inner.write(self, entered.streams, y, entered.found)

    def _seen(self, entered: Entered) -> Coefficients:
        return entered.found.summary()


class SegmentConnection(_Routed, segments.SegmentConnection):  # pyright: ignore[reportIncompatibleMethodOverride]
    """x' = A^T x + B^T F(A_0^T x) on segments [*, S, W] (arXiv:2503.14125 eq. 8, arXiv:2511.11238 eq. 6)."""

    inner = segments.SegmentConnection

    def __init__(self, variant: Segments, width: int, index: int, count: int, seed: int):
        super().__init__(variant, width)
        self.width, self.index = width, index
        self._load(segment_values.connection_values(variant, width, ""), "")


class SparseConnection(_Routed, sparse.SparseConnection):  # pyright: ignore[reportIncompatibleMethodOverride]
    """x'_I = H_res x_I + p * H_post F(H_pre x) for the active streams I, on [*, S, C] (arXiv:2607.14530)."""

    inner = sparse.SparseConnection

    def __init__(self, variant: Sparse, width: int, index: int, count: int, seed: int):
        super().__init__(variant, width, mixing_share(variant.mix, count))
        self.width, self.index = width, index
        prefix = f"topology.connections.{index}."
        self._load(sparse_values.connection_values(variant, width, index, prefix, seed), prefix)
