"""Rules that span the keys of a `streams` wiring: which gates, charts, conventions and initial values go together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mhc_exp.config.build import Problem
from mhc_exp.config.history_rules import history_problems
from mhc_exp.config.looped_rules import looped_problems
from mhc_exp.config.naming import slug_problem
from mhc_exp.config.residual_rules import residual_problems
from mhc_exp.config.schema import Config
from mhc_exp.config.segment_rules import segment_problems
from mhc_exp.config.sparse_rules import sparse_problems
from mhc_exp.config.variants import Gate, Gated, Looped, Mix, Residual, Segments, Sparse, Streams
from mhc_exp.topology import families
from mhc_exp.topology.charts import CHARTS
from mhc_exp.topology.init import PRESETS
from mhc_exp.topology.newton import steps_needed


@dataclass(frozen=True)
class Needs:
    """What the raw coefficients of an initial-value preset are made for."""

    gates: tuple[str, ...]
    charts: tuple[str, ...]


_EXPONENTIAL = ("sinkhorn", "exp", "row_softmax", "column_softmax", "identity")
_ROTATIONS = ("quaternion", "cayley")
_WITH_A_DIAGONAL = (
    *_EXPONENTIAL,
    *("permutation", "kronecker", "orthostochastic", "transport", "circulant", "sigmoid_diagonal"),
)
_SIGMOIDS = Needs(gates=("sigmoid", "two_sigmoid"), charts=(*_WITH_A_DIAGONAL, *_ROTATIONS))

INIT_NEEDS = {
    "hc_paper": Needs(gates=("linear",), charts=("free", "identity", *_ROTATIONS)),
    "demo": Needs(gates=("softmax_rows",), charts=_EXPONENTIAL),
    "near_identity": _SIGMOIDS,
    "uniform": _SIGMOIDS,
    "lite_repo": _SIGMOIDS,
    "soft_identity": Needs(_SIGMOIDS.gates, _WITH_A_DIAGONAL),
    "mhc_lab": _SIGMOIDS,
    "zero_mix": _SIGMOIDS,
    "circulant_repo": _SIGMOIDS,
    "preserving": _SIGMOIDS,
}
"""Preset -> activations and charts for which its numbers mean what their source meant."""


def variant_problems(config: Config) -> Iterator[Problem]:
    """Everything wrong with `config.variant` that one key alone does not show."""
    variant = config.variant
    name_problem = slug_problem(variant.name)
    if name_problem:
        yield Problem("variant.name", f"{name_problem} (it becomes part of the run's name)")
    if isinstance(variant, Residual):
        yield from residual_problems(variant, config.model.width)
    own = families.connection(variant)
    if own is not None:
        yield from stream_problems(own)
    if isinstance(variant, Looped):
        yield from looped_problems(variant, config.depth)
    if isinstance(variant, Gated) and variant.bottleneck > config.model.width:
        yield Problem(
            "variant.bottleneck",
            f"the width {config.model.width} is divided by it, got {variant.bottleneck}; type a number up to "
            f"{config.model.width}, or a larger model.width",
        )
    if isinstance(variant, Sparse):
        yield from sparse_connection_problems(variant)
    if isinstance(variant, Segments):
        yield from segment_problems(variant, config.model.width)
    yield from history_problems(config)


def sparse_connection_problems(own: Sparse) -> Iterator[Problem]:
    """Everything wrong with a sparse connection that one key alone does not show."""
    yield from _chart(own.mix, "active", own.active, own.streams)
    yield from _mix(own.mix, own.active)
    yield from sparse_problems(own, INIT_NEEDS[own.init].charts)


def stream_problems(own: Streams) -> Iterator[Problem]:
    """Everything wrong with a stream connection that one key alone does not show."""
    yield from _chart(own.mix, "streams", own.streams, 64)
    yield from _mix(own.mix, own.streams)
    yield from _layer_norm(own)
    yield from _gates(own)
    yield from _init(own)
    yield from _read_out(own)


def _chart(mix: Mix, key: str, streams: int, most: int) -> Iterator[Problem]:
    """The chart of a matrix that mixes `variant.KEY` streams, of which there can be `most`."""
    chart = CHARTS[mix.chart]
    if not chart.legal(streams, mix.expansion):
        got = f"{streams} with expansion {mix.expansion}" if mix.chart == "orthostochastic" else streams
        fits = [n for n in range(2, most + 1) if chart.legal(n, mix.expansion)]
        tries = [f"variant.{key}={nearest}" for nearest in sorted(fits, key=lambda n: abs(n - streams))[:1]]
        yield Problem(
            "variant.mix.chart",
            f"{mix.chart} needs {chart.allowed}, got {got}; type "
            + " or ".join([*tries, "variant.mix.chart=sinkhorn"]),
        )


def _layer_norm(variant: Streams) -> Iterator[Problem]:
    """What `norm: layer` cannot predict."""
    if variant.norm != "layer" or variant.coefficients != "dynamic":
        return
    if not CHARTS[variant.mix.chart].row_per_stream:
        yield Problem(
            "variant.norm",
            f"layer predicts one row of H_res from each stream, and {variant.mix.chart} has no rows of logits; "
            "type variant.norm=flat_rms",
        )
    if variant.mix.scale == "fixed":
        yield Problem(
            "variant.mix.scale",
            "with norm=layer one learned scale serves both the read and H_res; type variant.mix.scale=learned "
            "or variant.norm=flat_rms",
        )


def _mix(mix: Mix, streams: int) -> Iterator[Problem]:
    newton, needed = mix.chart == "sinkhorn" and mix.solver == "newton", steps_needed(streams)
    if newton and mix.iterations < needed:
        yield Problem(
            "variant.mix.iterations",
            f"newton takes at most this many steps and has to reach the limit, whose gradient it has: {streams} "
            f"streams need {needed}, got {mix.iterations}; type variant.mix.iterations={needed}, "
            "or variant.mix.solver=iterations",
        )
    if newton and (mix.start != "exp" or mix.eps != 0):
        yield Problem(
            "variant.mix.solver",
            "newton finds the limit, which has neither a softmax start nor an eps; type variant.mix.start=exp "
            "variant.mix.eps=0.0, or variant.mix.solver=iterations",
        )
    if mix.start == "softmax" and mix.order != "columns_last":
        yield Problem(
            "variant.mix.start",
            "softmax is already a row normalisation, so it needs order=columns_last; "
            "type variant.mix.order=columns_last (DeepSeek-V4) or variant.mix.start=exp (the paper)",
        )


def _gates(variant: Streams) -> Iterator[Problem]:
    if variant.coefficients == "static":
        return
    for key, gate in _named_gates(variant):
        if gate.activation == "softmax_rows":
            yield Problem(
                f"variant.{key}.activation",
                "softmax_rows has no dynamic form; type variant.coefficients=static, "
                f"or variant.{key}.activation=sigmoid (also: two_sigmoid, linear)",
            )


def _init(variant: Streams) -> Iterator[Problem]:
    needs = INIT_NEEDS[variant.init]
    for key, gate in _named_gates(variant):
        if gate.activation not in needs.gates:
            fits = [name for name, other in INIT_NEEDS.items() if gate.activation in other.gates]
            yield Problem(
                "variant.init",
                f"{variant.init} is made for {key} gates {' or '.join(needs.gates)}, got {gate.activation}; type "
                f"variant.{key}.activation={needs.gates[0]}, or variant.init={fits[0]}{_or_others(fits)}",
            )
    if variant.coefficients == "static" and PRESETS[variant.init].weight_std:
        fits = [n for n, other in INIT_NEEDS.items() if needs.gates == other.gates and not PRESETS[n].weight_std]
        yield Problem(
            "variant.init",
            f"{variant.init} tells the streams apart by random projections, which static coefficients lack: they "
            f"would stay copies of each other for ever; type variant.init={fits[0]}{_or_others(fits)}, "
            "or variant.coefficients=dynamic",
        )
    if variant.mix.chart not in needs.charts:
        fits = [name for name, other in INIT_NEEDS.items() if variant.mix.chart in other.charts]
        yield Problem(
            "variant.init",
            f"{variant.init} is made for charts {', '.join(needs.charts)}, got {variant.mix.chart}; type "
            f"variant.mix.chart={needs.charts[0]}, or variant.init={fits[0]}{_or_others(fits)}",
        )


def _read_out(variant: Streams) -> Iterator[Problem]:
    if variant.reduce == "last_read" and variant.read_from == "current":
        yield Problem(
            "variant.reduce",
            "last_read uses the read weights that the last connection has left over, which it only has with "
            "read_from=previous; type variant.read_from=previous, or variant.reduce=head (also: sum, mean)",
        )


def _named_gates(variant: Streams) -> tuple[tuple[str, Gate], tuple[str, Gate]]:
    return ("read", variant.read), ("write", variant.write)


def _or_others(names: list[str]) -> str:
    return f" (also: {', '.join(names[1:])})" if len(names) > 1 else ""
