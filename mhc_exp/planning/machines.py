"""What a machine can do: arithmetic, memory bandwidth, memory, time to start an operation. Named ones, or this one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from mhc_exp.config.machine import memory_bytes
from mhc_exp.config.schema import Config
from mhc_exp.threads import thread_count, usable_cpus


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

    def arithmetic(self, dtype: str) -> float:
        return self.half if dtype == "bfloat16" else self.single


MACHINES = {
    machine.name: machine
    for machine in (
        Machine("a100", 19.5e12, 312e12, 2.039e12, 80e9, 0, "NVIDIA A100 80GB SXM data sheet: peaks, not rates reached"),
        Machine("h100", 67e12, 989e12, 3.35e12, 80e9, 0, "NVIDIA H100 SXM data sheet: peaks, not rates reached"),
        Machine("h200", 67e12, 989e12, 4.8e12, 141e9, 0, "NVIDIA H200 SXM data sheet: peaks, not rates reached"),
        Machine("l4", 30.3e12, 121e12, 0.3e12, 24e9, 0, "NVIDIA L4 data sheet: peaks, not rates reached"),
        Machine("rtx4090", 82.6e12, 165e12, 1.008e12, 24e9, 0, "NVIDIA Ada white paper: peaks, not rates reached"),
    )
}
"""float32 without TF32; bfloat16 without sparsity."""
MEASURED = "measured"
ROUNDS = 9


def measured(config: Config) -> Machine:
    """This machine's CPU at the shapes of `config`: a GEMM of its MLP, a copy of its streams, a sum of two numbers."""
    import torch

    model = config.model
    torch.set_num_threads(thread_count(config.backend.threads, model.width) or usable_cpus())
    tokens = model.seq_len * config.training.batch_size // config.training.accumulation
    rows = min(tokens, 2**26 // (16 * model.width))  # at most 256 MiB a matrix
    a, b = torch.rand(rows, model.width), torch.rand(model.width, 4 * model.width)
    flops = 2 * rows * model.width * 4 * model.width
    single, half = (flops / _seconds(lambda a=a.to(d), b=b.to(d): a @ b) for d in (torch.float32, torch.bfloat16))
    streams = torch.rand(rows, 4, model.width)
    copy, one = torch.empty_like(streams), torch.ones(1, requires_grad=True)
    bandwidth = 2 * 4 * streams.numel() / _seconds(lambda: copy.copy_(streams))
    start = _seconds(lambda: one + one)
    source = f"this CPU, {torch.get_num_threads()} threads, best of {ROUNDS}: GEMM and copy at this configuration's shapes"
    return Machine(MEASURED, single, half, bandwidth, memory_bytes(), start, source)


def _seconds(work: Callable[[], object]) -> float:
    """Of one call: the best of some rounds of about 10 ms, which other processes disturb least."""
    work()
    begun = time.perf_counter()
    work()
    repeats = max(1, int(0.01 / max(time.perf_counter() - begun, 1e-7)))
    rounds = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        for _ in range(repeats):
            work()
        rounds.append((time.perf_counter() - begun) / repeats)
    return min(rounds)
