"""Numbers that one connection reads and writes per token, in the ways in which it can be computed.

n streams, C width. Coefficients are left out where they are few beside nC.
"""

from __future__ import annotations

from typing import NamedTuple

from mhc_exp.config.variants import Streams


class Traffic(NamedTuple):
    """Numbers per token and connection, read and written."""

    forward: float
    backward: float | None
    """None where nobody has counted it."""
    source: str


class Operations(NamedTuple):
    """Kernels launched per connection."""

    forward: int
    backward: int


EAGER_OPERATIONS = Operations(19, 42)
"""Of the eager tier without the alternations of Sinkhorn-Knopp, which are two more each."""


def plain(width: int) -> Traffic:
    """A residual addition, and the addition of the two gradients."""
    return Traffic(3 * width, 3 * width, "plain residual addition")


def unfused(streams: int, width: int) -> Traffic:
    """The mHC paper's count of an implementation of single operations."""
    n, c = streams, width
    return Traffic((8 * n + 2) * c + 2 * n * n + 4 * n, None, "single operations (arXiv:2512.24880, Table 2)")


def eager(streams: int, width: int, iterations: int) -> Traffic:
    """This project's eager tier, with `iterations` of Sinkhorn-Knopp in logarithms. Counted by torch.memory.Meter and
    fitted to 12 shapes (n = 2, 4, 8; C = 64, 128; 5 and 20 iterations) with a largest error below 0.1 %.
    """
    n, c, square = streams, width, streams**2
    forward = (11 * n + 2) * c + 4 * iterations * square + 11 * square + 13.5 * n
    backward = (33 * n + 1) * c + 6 * iterations * square + 36 * square + 56 * n
    return Traffic(forward, backward, "eager tier (counted)")


def fused(streams: int, width: int) -> Traffic:
    """Two kernels each way: coefficients with read, and write (torch.kernels.native; the floor backward is (5n + 3) C,
    for kernels that compute what one hands to the other a second time).
    """
    return Traffic((3 * streams + 2) * width, (6 * streams + 3) * width, "two fused kernels (native tier)")


def single_pass(streams: int, width: int) -> Traffic:
    """One kernel each way, for read_from=previous (arXiv:2606.19348): a bound that no kernel of ours reaches."""
    return Traffic((2 * streams + 2) * width, (3 * streams + 3) * width, "one fused kernel, read_from=previous (bound)")


def all_ways(variant: Streams, width: int) -> list[Traffic]:
    """From the plain residual to the bound."""
    n = variant.streams
    return [
        plain(width),
        unfused(n, width),
        eager(n, width, alternating(variant)),
        fused(n, width),
        single_pass(n, width),
    ]


def alternating(variant: Streams) -> int:
    """Iterations of Sinkhorn-Knopp; other charts count as none."""
    dynamic = variant.coefficients == "dynamic" and variant.mix.solver == "iterations"
    return variant.mix.iterations if dynamic and variant.mix.chart == "sinkhorn" else 0
