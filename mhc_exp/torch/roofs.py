"""What this CPU reaches in PyTorch: rates of matrix products and of copies, and the time to start an operation."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch

from mhc_exp.config.machine import memory_bytes
from mhc_exp.config.schema import Config
from mhc_exp.planning.machines import MEASURED, Machine
from mhc_exp.threads import thread_count, usable_cpus

ROUNDS = 9


def measured(config: Config) -> Machine:
    """This machine's CPU at the shapes of `config`: a GEMM of its MLP, a copy of its streams, a sum of two numbers."""
    model = config.model
    torch.set_num_threads(thread_count(config.backend.threads, model.width) or usable_cpus())
    tokens = model.seq_len * config.training.batch_size // config.training.accumulation
    rows = min(tokens, 2**26 // (16 * model.width))  # at most 256 MiB a matrix
    a, b = torch.rand(rows, model.width), torch.rand(model.width, 4 * model.width)
    flops = 2 * rows * model.width * 4 * model.width
    pairs = ((a, b), (a.bfloat16(), b.bfloat16()))
    single, half = (flops / _seconds(functools.partial(torch.matmul, *pair)) for pair in pairs)
    streams = torch.rand(rows, 4, model.width)
    copy, one = torch.empty_like(streams), torch.ones(1, requires_grad=True)
    bandwidth = 2 * 4 * streams.numel() / _seconds(lambda: copy.copy_(streams))
    start = _seconds(lambda: one + one)
    source = (
        f"this CPU, {torch.get_num_threads()} threads, best of {ROUNDS}: GEMM and copy at this configuration's shapes"
    )
    return Machine(MEASURED, single, half, bandwidth, memory_bytes(), start, source)


def _seconds(work: Callable[[], object]) -> float:
    """Of one call: the best of some rounds of about 10 ms; CPU time where one thread works, so that other processes
    disturb little.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    begun = clock()
    for _ in range(3):
        work()
    repeats = max(1, int(0.03 / max(clock() - begun, 1e-7)))
    rounds = []
    for _ in range(ROUNDS):
        begun = clock()
        for _ in range(repeats):
            work()
        rounds.append((clock() - begun) / repeats)
    return min(rounds)
