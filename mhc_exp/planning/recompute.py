"""Whether a run recomputes its activations, and in blocks of how many layers (arXiv:2512.24880, Table 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mhc_exp.config.schema import Config
from mhc_exp.planning.activations import RECOMPUTABLE, Activations, activations
from mhc_exp.planning.parameters import STATE, body_parameters, parameter_counts, vocabulary
from mhc_exp.topology import families

ROOM = 0.8
"""Share of the device's memory that a run may need before `auto` recomputes: the rest is for temporaries and others."""


@dataclass(frozen=True)
class Recompute:
    """What a run does."""

    length: int | None
    """Layers per recomputed block; None keeps everything."""
    text: str
    """For people."""
    connections: bool = False
    """Whether the sublayers of a block are not computed again."""


def best_length(streams: float, layers: int) -> int:
    """L_r* = round(sqrt(n L / (n + 2))), at least 1: it minimises n C L / L_r + (n + 2) C L_r, what is kept of the
    blocks and of the connections inside one. L counts what has a connection of its own: two sublayers per block.
    """
    return max(1, round(math.sqrt(streams * layers / (streams + 2))))


def obstacle(config: Config, wanted: str = "block") -> str | None:
    """Why this run cannot recompute blocks, or the connections in them, or None."""
    if wanted == "connections" and config.variant.family != "streams":
        return f"connections alone are recomputed in the family streams, not in {config.variant.family}"
    if wanted == "connections" and config.backend.name == "mlx":
        return "MLX recomputes a block as a whole"
    if config.variant.family not in RECOMPUTABLE:
        return f"blocks are recomputed in the families {' and '.join(RECOMPUTABLE)}, not in {config.variant.family}"
    if config.backend.name == "mlx" and config.model.dropout:
        return "MLX would draw other units for dropout the second time"
    return None


def block_length(config: Config) -> int:
    """Layers per block: as configured, or L_r*."""
    streams, layers = families.kept(config.variant, config.depth), layers_of(config)
    return min(config.training.recompute_length or best_length(streams, layers), layers)


def layers_of(config: Config) -> int:
    """L: connections of the wiring, or sublayers of a residual stream."""
    return len(families.wrapped(config.variant, config.depth)) or 2 * config.depth


def needed(config: Config, found: Activations, vocab_size: int, length: int | None, connections: bool = False) -> float:
    """Bytes of a run: weights, gradients, two moments, and activations at their peak."""
    return STATE * sum(parameter_counts(config, vocab_size)) + found.peak(length, connections)


def least_needed(config: Config) -> float:
    """Bytes of a run without those of the connections' own parameters, which take time to count, and with nothing
    recomputed in the native tier: for refusing what no machine could do.
    """
    symbols = vocabulary(config)
    return STATE * body_parameters(config, symbols) + activations(config, symbols, native=True).peak(None)


def decide(config: Config, vocab_size: int, native: bool, memory: int | None) -> Recompute:
    """What `training.recompute` means for this run on a device with `memory` bytes."""
    wanted, length = config.training.recompute, block_length(config)
    reason, connections = obstacle(config, wanted), wanted == "connections"
    if wanted == "none" or (reason and wanted == "auto"):
        return Recompute(None, "none" + (f": {reason}" if wanted == "auto" else ""))
    if reason:
        raise ValueError(f"training.recompute={wanted}: {reason}")
    found = activations(config, vocab_size, native)
    without, within = (needed(config, found, vocab_size, option, connections) for option in (None, length))
    sizes = f"about {gib(within)} instead of {gib(without)}"
    if connections:
        return Recompute(length, f"connections of blocks of {length} of {found.layers}: {sizes}", connections=True)
    if wanted == "block":
        return Recompute(length, f"blocks of {length} of {found.layers}: {sizes}")
    if memory is None or without <= ROOM * memory:
        return Recompute(None, f"none: about {gib(without)} of {gib(memory) if memory else 'an unknown size'}")
    return Recompute(length, f"blocks of {length} of {found.layers}: {sizes}, of {gib(memory)}")


def gib(size: float) -> str:
    """`1.4 GiB`, `310 MiB`."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"
