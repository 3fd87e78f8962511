"""Which tier computes the connections of a run, and why: the fastest one that is exact for this wiring and device.

`auto` is native, else eager, and never compiled: that saves a quarter of eager's time on a CPU after more than a minute
of compilation, where native saves more after two seconds (docs/performance.md). It is for who asks for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from mhc_exp.config.schema import Config
from mhc_exp.config.variants import Streams
from mhc_exp.topology import families
from mhc_exp.torch.kernels.build import Unavailable
from mhc_exp.torch.kernels.compiled import Compiled
from mhc_exp.torch.kernels.eager import Eager
from mhc_exp.torch.kernels.fused import normalises, predicts
from mhc_exp.torch.kernels.gpu import Triton
from mhc_exp.torch.kernels.native import Native


@dataclass(frozen=True)
class Choice:
    """A tier, and the sentence that says so in the log and in run.json."""

    tier: Eager
    text: str


def choose(config: Config, device: torch.device) -> Choice:
    """The tier for `config.backend.kernels`, which config.checks has passed. Raises Unavailable if that names one which
    cannot be had here after all.
    """
    wanted, connection = config.backend.kernels, families.connection(config.variant)
    if wanted == "eager" or connection is None:  # other families have no other tier
        return Choice(Eager(), "eager")
    if wanted == "compiled":
        tier = Compiled(connection, config.model.width, device)
        return Choice(tier, f"compiled by torch.compile in {tier.seconds:.1f} s; without gradients: eager")
    try:
        return native(connection, device)
    except Unavailable as reason:
        if wanted == "native":
            raise
        return Choice(Eager(), f"eager: {reason}")


def install(topology: nn.Module, tier: Eager) -> None:
    """Let `tier` compute the connections of a wiring; a wiring without such connections keeps its own operations."""
    if hasattr(topology, "kernels"):
        topology.kernels = tier  # type: ignore[assignment]


def native(connection: Streams, device: torch.device) -> Choice:
    """The tier with kernels of its own for these connections. Raises Unavailable."""
    if device.type == "cuda":
        return Choice(Triton(connection, device), f"native (Triton): {description(connection)}")
    if device.type != "cpu":
        raise Unavailable("the native kernels are for CPUs and CUDA")
    tier = Native(connection)
    return Choice(
        tier, f"native: {description(connection)}{'' if tier.library.threaded else ', one thread (no OpenMP)'}"
    )


def description(variant: Streams) -> str:
    """What the native kernels compute, and what stays with PyTorch: `read, write, mixing; coefficients by PyTorch`."""
    own, rest = ["read", "write"], []
    if variant.coefficients == "dynamic":
        (own if predicts(variant) else rest).append("coefficients")
    if variant.mix.chart not in ("identity", "free"):
        (own if normalises(variant.mix) else rest).append(f"chart {variant.mix.chart}")
    return ", ".join(own) + (f"; {' and '.join(rest)} by PyTorch" if rest else "")
