"""What a machine can do: arithmetic, memory bandwidth, memory, time to start an operation. Named ones, or this one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Each(NamedTuple):
    """A number for each pass."""

    forward: float
    backward: float


@dataclass(frozen=True)
class Machine:
    """Rates in FLOP/s and bytes/s."""

    name: str
    single: float
    """float32 matrix products."""
    half: float
    """Dense bfloat16 matrix products with float32 sums."""
    bandwidth: float
    memory: float | None
    """Bytes."""
    start: float
    """Seconds that an operation costs beside its work; 0 where a captured graph is assumed."""
    source: str
    slower: Mapping[str, Each] = field(default_factory=dict)
    """How many times longer than FLOPs, bytes and starts say a real block (`body`), a connection (`eager`, `fused`) and
    AdamW (`optimizer`) take; measured. What is not in it takes as long as they say.
    """

    def times(self, part: str) -> Each:
        """`slower` of a part."""
        return self.slower.get(part, Each(1.0, 1.0))

    def arithmetic(self, dtype: str) -> float:
        return self.half if dtype == "bfloat16" else self.single


MACHINES = {
    machine.name: machine
    for machine in (
        Machine(
            "a100", 19.5e12, 312e12, 2.039e12, 80e9, 0, "NVIDIA A100 80GB SXM data sheet: peaks, not rates reached"
        ),
        Machine("h100", 67e12, 989e12, 3.35e12, 80e9, 0, "NVIDIA H100 SXM data sheet: peaks, not rates reached"),
        Machine("h200", 67e12, 989e12, 4.8e12, 141e9, 0, "NVIDIA H200 SXM data sheet: peaks, not rates reached"),
        Machine("l4", 30.3e12, 121e12, 0.3e12, 24e9, 0, "NVIDIA L4 data sheet: peaks, not rates reached"),
        Machine("rtx4090", 82.6e12, 165e12, 1.008e12, 24e9, 0, "NVIDIA Ada white paper: peaks, not rates reached"),
    )
}
"""float32 without TF32; bfloat16 without sparsity."""
MEASURED = "measured"
"""This machine's CPU, by mhc_exp.torch.roofs."""
