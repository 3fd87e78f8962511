"""Step time from arithmetic, bytes and starts of operations, one after the other, at the share that real blocks reach.

time = slower * (FLOPs / rate + bytes / bandwidth + operations * start): an operation is bound by one of them, and
`slower` is what one block, one connection and AdamW of this very shape need beside that sum on the machine itself
(1 where nobody measured it). `mhc-exp plan --check` prints the error on this machine (docs/memory.md).
"""

from __future__ import annotations

from typing import NamedTuple

from mhc_exp.body.flops import body_flops_per_token
from mhc_exp.config.schema import Config
from mhc_exp.planning import traffic
from mhc_exp.planning.activations import SINGLE, block_bytes
from mhc_exp.planning.machines import Each, Machine
from mhc_exp.planning.parameters import parameter_counts
from mhc_exp.planning.recompute import layers_of
from mhc_exp.topology import families

BODY_FORWARD, BODY_BACKWARD = 2.5, 5.2
"""Bytes that a block's operations move over bytes that it keeps: 2.47 to 2.55 and 5.12 to 5.28, counted by
torch.memory.Meter at widths 64 and 256."""
BODY_OPERATIONS = traffic.Operations(10, 19)
"""Per block, counted likewise."""
OPTIMIZER = 28
"""Bytes per parameter that fused AdamW moves: reads weight, gradient, two moments; writes weight and moments."""


class Seconds(NamedTuple):
    """Of one step, by what they are spent on."""

    body: float
    connections: float
    optimizer: float
    again: float
    """Forward passes of recomputed blocks."""

    @property
    def step(self) -> float:
        return sum(self)


def predict(config: Config, vocab_size: int, machine: Machine, way: str, recompute: bool = False) -> Seconds:
    """A step of `config`; `way` is how connections are computed: plain, eager, fused or single_pass."""
    called = sum(families.passes(config.variant, config.depth))
    slow, block, head = machine.times("body"), block_seconds(config, machine), _head(config, vocab_size, machine)
    forward, backward = (called * each + last for each, last in zip(block, head, strict=True))
    own = connection_seconds(config, machine, way)
    times = machine.times("fused" if way == "single_pass" else way)
    connections = [layers_of(config) * each * time for each, time in zip(own, times, strict=True)]
    size = sum(parameter_counts(config, vocab_size))
    again = slow.forward * called * block.forward + connections[0] if recompute else 0.0
    body = slow.forward * forward + slow.backward * backward
    return Seconds(body, sum(connections), machine.times("optimizer").forward * optimizer_seconds(size, machine), again)


def block_seconds(config: Config, machine: Machine) -> Each:
    """One call of a block for all tokens of a step, if everything went at the machine's rates."""
    flops = body_flops_per_token(config, 0, 1)
    return _seconds(config, machine, flops, BODY_FORWARD, BODY_BACKWARD, block_bytes(config), BODY_OPERATIONS)


def _head(config: Config, vocab_size: int, machine: Machine) -> Each:
    """Scores and loss."""
    flops, moved = 2 * config.model.width * vocab_size, 2 * SINGLE * vocab_size
    return _seconds(config, machine, flops, BODY_FORWARD, BODY_BACKWARD, moved, traffic.Operations(0, 0))


def _seconds(
    config: Config,
    machine: Machine,
    flops: float,
    forward: float,
    backward: float,
    kept: float,
    operations: traffic.Operations,
) -> Each:
    """For all tokens of a step; FLOPs and kept bytes are per token, `forward` and `backward` bytes moved over kept."""
    rate, tokens = machine.arithmetic(config.backend.dtype), step_tokens(config)
    start = config.training.accumulation * machine.start
    return Each(
        tokens * (flops / rate + forward * kept / machine.bandwidth) + operations.forward * start,
        tokens * (2 * flops / rate + backward * kept / machine.bandwidth) + operations.backward * start,
    )


def optimizer_seconds(size: int, machine: Machine) -> float:
    """AdamW on `size` parameters."""
    return OPTIMIZER * size / machine.bandwidth


def step_tokens(config: Config) -> int:
    """Tokens of an optimizer step."""
    return config.model.seq_len * config.training.batch_size


def connection_seconds(config: Config, machine: Machine, way: str) -> Each:
    """One connection for all tokens of a step, if everything went at the machine's rates."""
    variant, width, tokens = config.variant, config.model.width, step_tokens(config)
    connection, count = families.connection(variant), layers_of(config)
    if way == "plain" or connection is None:
        each, operations = traffic.plain(width), traffic.Operations(1, 1)
    elif way == "eager":
        iterations = traffic.alternating(connection)
        each = traffic.eager(connection.streams, width, iterations)
        operations = traffic.Operations(*(number + 2 * iterations for number in traffic.EAGER_OPERATIONS))
    else:
        each, operations = getattr(traffic, way)(connection.streams, width), traffic.Operations(3, 3)
    flops = families.flops_per_token(variant, width, config.depth) / count / machine.single
    start = config.training.accumulation * machine.start
    forward = tokens * (flops + SINGLE * each.forward / machine.bandwidth) + operations.forward * start
    moved = SINGLE * (each.backward or 0) / machine.bandwidth
    return Each(forward, tokens * (2 * flops + moved) + operations.backward * start)


def overhead(config: Config, baseline: Config, vocab_size: int, machine: Machine, way: str, recompute: bool) -> float:
    """Step time over that of the residual baseline without recomputation, minus one."""
    own = predict(config, vocab_size, machine, way, recompute).step
    return own / predict(baseline, vocab_size, machine, "plain").step - 1
