"""The text of `mhc-exp plan`: one paragraph per question."""

from __future__ import annotations

import dataclasses

from mhc_exp.body.flops import forward_flops_per_token, training_flops_per_token
from mhc_exp.config.compose import compose
from mhc_exp.config.schema import Config
from mhc_exp.planning import traffic
from mhc_exp.planning.activations import MODELLED, RECOMPUTABLE, activations
from mhc_exp.planning.machines import Machine
from mhc_exp.planning.parameters import STATE, parameter_counts, vocabulary
from mhc_exp.planning.recompute import best_length, block_length, decide, gib, layers_of, obstacle
from mhc_exp.planning.roofline import predict, step_tokens
from mhc_exp.topology import families


def text(config: Config, machine: Machine, native: bool) -> str:
    """All paragraphs; `native`: the C kernels compute the connections."""
    paragraphs = [
        _head(config),
        _size(config),
        _traffic(config),
        _memory(config, machine, native),
        _time(config, machine),
    ]
    return "\n\n".join(filter(None, paragraphs))


def _head(config: Config) -> str:
    model, training = config.model, config.training
    said = f"{config.variant.name}: depth {config.depth}, width {model.width}, T = {model.seq_len}"
    batch = f"B = {training.batch_size}"
    parts = f" in {training.accumulation} microbatches" if training.accumulation > 1 else ""
    sizes = f"{step_tokens(config):,} tokens a step, {config.backend.dtype}, {vocabulary(config):,} symbols"
    return f"{said}, {batch}{parts}, {sizes}"


def _size(config: Config) -> str:
    symbols = vocabulary(config)
    body, own = parameter_counts(config, symbols)
    flops = families.flops_per_token(config.variant, config.model.width, config.depth)
    forward, training = forward_flops_per_token(config, symbols), training_flops_per_token(config, symbols)
    rows = [
        ("parameters", f"{body + own:,}: body {body:,}, connections {own:,} ({own / body:.2%} of the body)"),
        ("FLOPs", f"{training:.3g} per token ({forward:.3g} forward, of them connections {flops / forward:.2%})"),
        ("", f"{training * step_tokens(config):.3g} per step"),
        ("state", f"{gib(STATE * (body + own))}: weights, gradients, AdamW's moments, float32"),
    ]
    return _table(rows)


def _traffic(config: Config) -> str:
    connection = families.connection(config.variant)
    if connection is None:
        return ""
    rows: list[tuple[str, ...]] = [("numbers moved per token and connection", "forward", "backward")]
    for way in traffic.all_ways(connection, config.model.width):
        cells = (_numbers(value, config.model.width) for value in (way.forward, way.backward))
        rows.append((way.source, *cells))
    return _table(rows, right=True)


def _numbers(value: float | None, width: int) -> str:
    return "not counted" if value is None else f"{value:,.0f} = {value / width:.1f} C"


def _memory(config: Config, machine: Machine, native: bool) -> str:
    symbols, family = vocabulary(config), config.variant.family
    found, state = activations(config, symbols, native), STATE * sum(parameter_counts(config, symbols))
    tokens = step_tokens(config) // config.training.accumulation
    tier = "" if families.connection(config.variant) is None else f", {'native' if native else 'eager'} tier"
    guess = "" if family in MODELLED else f"; a rough guess for the family {family}"
    rows: list[tuple[str, ...]] = [(f"activations of {tokens:,} tokens{tier}{guess}", "kept", "peak", "with state")]
    for name, length in _policies(config, found.shortest_peak()):
        sizes = (found.kept(length), found.peak(length), found.peak(length) + state)
        rows.append((name, *map(gib, sizes)))
    if obstacle(config, "connections") is None:
        length = block_length(config)
        kept, peak = found.kept(length, connections=True), found.peak(length, connections=True)
        rows.append((f"connections of blocks of {length}", *map(gib, (kept, peak, peak + state))))
    memory = None if machine.memory is None else int(machine.memory)
    decided = f"training.recompute={config.training.recompute} on {machine.name}: "
    return f"{_table(rows, right=True)}\n{decided}{decide(config, symbols, native, memory).text}"


def _policies(config: Config, shortest: int) -> list[tuple[str, int | None]]:
    """Names and block lengths; for a wiring that cannot recompute, only the first."""
    if obstacle(config):
        return [("none", None)]
    layers, given = layers_of(config), config.training.recompute_length
    best = best_length(families.kept(config.variant, config.depth), layers)
    lengths = {best: "L_r*", shortest: "smallest peak"}
    if given is not None:
        lengths[given] = "as configured"
    if best == shortest:
        lengths[best] = "L_r*, smallest peak"
    return [("none", None), *((f"block of {length} of {layers} ({why})", length) for length, why in lengths.items())]


def _time(config: Config, machine: Machine) -> str:
    family, symbols = config.variant.family, vocabulary(config)
    rate = machine.arithmetic(config.backend.dtype)
    roof = f"{rate / 1e12:.3g} TFLOP/s {config.backend.dtype}, {machine.bandwidth / 1e9:,.0f} GB/s"
    title = f"predicted step on {machine.name} ({machine.source}; {roof})"
    if family not in MODELLED:
        return f"{title}: no model of the family {family}"
    baseline = dataclasses.replace(config, variant=compose(["variant=baseline"]).variant)
    base = predict(baseline, symbols, machine, "plain").step
    ways = ["eager", "fused", "single_pass"] if families.connection(config.variant) else ["plain"]
    rows = [("connections", "step", "over baseline", "recomputing"), ("baseline", _duration(base), "", "")]
    for way in ways:
        own = predict(config, symbols, machine, way).step
        again = predict(config, symbols, machine, way, recompute=True).step
        recomputing = f"{again / base - 1:+.1%}" if family in RECOMPUTABLE else "cannot"
        rows.append((way.replace("_", " "), _duration(own), f"{own / base - 1:+.1%}", recomputing))
    return f"{title}\n{_table(rows, right=True)}"


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.2f} ms"


def _table(rows: list[tuple[str, ...]], right: bool = False) -> str:
    """Columns of the same width; all but the first to the right, if asked."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [cell.rjust(width) if right else cell for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)
