"""Step time from arithmetic, bytes and starts of operations, one after the other.

time = FLOPs / rate + bytes / bandwidth + operations * start: an operation is bound by one of them.
`mhc-exp plan --check` prints its error on this machine (docs/memory.md).
"""

from __future__ import annotations

from typing import NamedTuple

from mhc_exp.body.flops import body_flops_per_token
from mhc_exp.config.schema import Config
from mhc_exp.planning import traffic
from mhc_exp.planning.activations import SINGLE, block_bytes
from mhc_exp.planning.machines import Machine
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
    rate, tokens = machine.arithmetic(config.backend.dtype), step_tokens(config)
    called, parts = sum(families.passes(config.variant, config.depth)), config.training.accumulation
    flops = body_flops_per_token(config, vocab_size, called)
    moved = called * block_bytes(config) + 2 * SINGLE * vocab_size
    forward = tokens * (flops / rate + BODY_FORWARD * moved / machine.bandwidth)
    backward = tokens * (2 * flops / rate + BODY_BACKWARD * moved / machine.bandwidth)
    starts = parts * called * machine.start
    forward, backward = forward + BODY_OPERATIONS.forward * starts, backward + BODY_OPERATIONS.backward * starts
    own, own_backward = _connections(config, machine, way)
    size = sum(parameter_counts(config, vocab_size))
    again = 0.0
    if recompute:
        head = 2 * config.model.width * vocab_size / rate + BODY_FORWARD * 2 * SINGLE * vocab_size / machine.bandwidth
        again = forward - tokens * head + own
    return Seconds(forward + backward, own + own_backward, OPTIMIZER * size / machine.bandwidth, again)


def step_tokens(config: Config) -> int:
    """Tokens of an optimizer step."""
    return config.model.seq_len * config.training.batch_size


def _connections(config: Config, machine: Machine, way: str) -> tuple[float, float]:
    """Seconds of all connections of a step, forward and backward."""
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
    flops = families.flops_per_token(variant, width, config.depth) / machine.single
    starts = config.training.accumulation * count * machine.start
    forward = tokens * (flops + count * SINGLE * each.forward / machine.bandwidth) + operations.forward * starts
    moved = count * SINGLE * (each.backward or 0) / machine.bandwidth
    return forward, tokens * (2 * flops + moved) + operations.backward * starts


def overhead(config: Config, baseline: Config, vocab_size: int, machine: Machine, way: str, recompute: bool) -> float:
    """Step time over that of the residual baseline without recomputation, minus one."""
    own = predict(config, vocab_size, machine, way, recompute).step
    return own / predict(baseline, vocab_size, machine, "plain").step - 1
