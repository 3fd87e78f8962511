"""What this CPU reaches in PyTorch: rates of matrix products and of copies, the time to start an operation, and how
much longer than these say a real block, a connection and AdamW take.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from mhc_exp.config.machine import memory_bytes
from mhc_exp.config.schema import Config
from mhc_exp.planning.machines import MEASURED, Each, Machine
from mhc_exp.planning.roofline import block_seconds, connection_seconds, optimizer_seconds
from mhc_exp.threads import thread_count, usable_cpus
from mhc_exp.topology import families
from mhc_exp.torch.benchmarks import Connection
from mhc_exp.torch.kernels.build import Unavailable
from mhc_exp.torch.model import Block

ROUNDS = 9
TIERS = {"eager": "eager", "fused": "native"}
"""Way of traffic.py -> tier that computes connections so."""
LARGE = 2**20
"""Most numbers of a tensor [B, T, C] that a block is timed on."""


def measured(config: Config) -> Machine:
    """This machine's CPU at the shapes of `config`: a GEMM of its MLP, a copy of its streams, a sum of two numbers; one
    block, one connection in every tier that can be had, and AdamW on the weights of a block.
    """
    threads = thread_count(config.backend.threads, config.model.width) or usable_cpus()
    torch.set_num_threads(threads)
    rates = _rates(config)
    part = _part(config, threads)
    slower = {"body": _over(_block(part), block_seconds(part, rates)), "optimizer": _optimizer(part, rates)}
    for way, tier in TIERS.items():
        if (found := _connection(part, tier)) is not None:
            slower[way] = _over(found, connection_seconds(part, rates, way))
    return dataclasses.replace(rates, slower=slower)


def _part(config: Config, threads: int) -> Config:
    """As many tokens of one microbatch as make LARGE numbers a tensor [B, T, C], on this CPU."""
    model, training = config.model, config.training
    time = min(model.seq_len, max(16, LARGE // model.width))
    batch = max(1, min(training.batch_size // training.accumulation, LARGE // (model.width * time)))
    return dataclasses.replace(
        config,
        model=dataclasses.replace(model, seq_len=time),
        training=dataclasses.replace(training, batch_size=batch, accumulation=1),
        backend=dataclasses.replace(config.backend, name="cpu", threads=threads, tf32=False),
    )


def _rates(config: Config) -> Machine:
    """GEMM, copy and start."""
    model = config.model
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
        f"this CPU, {torch.get_num_threads()} threads, medians of {ROUNDS}: "
        "GEMM, copy, block and connection at this configuration's shapes"
    )
    return Machine(MEASURED, single, half, bandwidth, memory_bytes(), start, source)


def _over(found: Each, expected: Each) -> Each:
    """How many times longer."""
    return Each(*(seen / said for seen, said in zip(found, expected, strict=True)))


def _block(config: Config) -> Each:
    """Seconds of attention and MLP with their norms."""
    model = config.model
    block = Block(model)
    x = torch.randn(config.training.batch_size, model.seq_len, model.width, requires_grad=True)

    def forward() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.backend.dtype == "bfloat16"):
            return block.mlp(block.attention(x))

    def both() -> None:
        made = forward()
        torch.autograd.grad(made, [x, *block.parameters()], made.detach())

    return _passes(forward, both)


def _connection(config: Config, tier: str) -> Each | None:
    """Seconds of one connection around the identity; None if the wiring has none, or not in this tier."""
    variant = families.connection(config.variant)
    if variant is None:
        return None
    backend = dataclasses.replace(config.backend, kernels=tier)
    tokens = config.training.batch_size * config.model.seq_len
    try:
        around = Connection(dataclasses.replace(config, variant=variant, backend=backend), tokens, config.model.width)
    except Unavailable:
        return None
    return _passes(around.forward, around)


def _optimizer(config: Config, rates: Machine) -> Each:
    """How many times longer than its bytes say AdamW takes on the weights of a block."""
    parameters = [parameter.detach() for parameter in Block(config.model).parameters()]
    gradients, first, second = ([torch.zeros_like(parameter) for parameter in parameters] for _ in range(3))
    steps = [torch.ones(())] * len(parameters)
    lr, beta1, beta2, decay, eps = 1e-3, 0.9, 0.95, 0.1, 1e-8

    def update() -> None:
        torch.nn.utils.get_total_norm(gradients)
        torch._fused_adamw_(  # pyright: ignore[reportPrivateImportUsage]
            *(parameters, gradients, first, second, [], steps),
            lr=lr,
            beta1=beta1,
            beta2=beta2,
            weight_decay=decay,
            eps=eps,
            amsgrad=False,
            maximize=False,
        )

    expected = optimizer_seconds(sum(parameter.numel() for parameter in parameters), rates)
    return Each(_seconds(update) / expected, 1.0)


def _passes(forward: Callable[[], object], both: Callable[[], object]) -> Each:
    """Seconds of the forward pass, its graph recorded, and of the rest."""
    first = _seconds(forward)
    return Each(first, max(_seconds(both) - first, first))


def _seconds(work: Callable[[], object]) -> float:
    """Of one call: the median of some rounds of about 10 ms; CPU time where one thread works, so that other processes
    disturb little. A call of more than a second is timed once.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    begun = clock()
    for _ in range(2):
        work()
    once = (clock() - begun) / 2
    if once > 1:
        return once
    repeats = max(1, int(0.01 / max(once, 1e-7)))
    rounds = []
    for _ in range(ROUNDS):
        begun = clock()
        for _ in range(repeats):
            work()
        rounds.append((clock() - begun) / repeats)
    return statistics.median(rounds)
