"""What a wiring does on a batch, in MLX: coefficients, streams, and gradients of its connections alone.

Mirrors mhc_exp/torch/diagnosis.py; what is made of it is said in mhc_exp.topology.diagnosis. Axes: N tokens, S streams,
C width. MLX differentiates functions of arrays, so that dL/dH_res is the gradient of zeros added to each H_res.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_unflatten

from mhc_exp.body.parameters import is_connection
from mhc_exp.config.schema import Config
from mhc_exp.mlx.interventions import rewired
from mhc_exp.mlx.model import Transformer
from mhc_exp.mlx.wiring import Coefficients, Observer, SourceObserver
from mhc_exp.topology import families, learning
from mhc_exp.topology.diagnosis import Diagnosis, HistoryDiagnosis

Loss = Callable[[Observer | SourceObserver], mx.array]
"""The mean loss of a batch, watched by an observer."""
Arrays = dict[str, mx.array]


def diagnose(
    config: Config, model: Transformer, parameters: Mapping[str, mx.array], loss: Loss, tokens: int
) -> Diagnosis | HistoryDiagnosis | None:
    """`parameters` are those of `model` by name, `tokens` those of the batch. None for a wiring that has nothing to
    report.
    """
    own = {name: parameter for name, parameter in parameters.items() if is_connection(name)}
    if families.reads(config.variant, config.depth) is not None:
        return _history(config, model, own, loss)
    if families.streams_of(config.variant) is not None:
        return _streams(config, model, own, loss, tokens)
    return None


def _streams(config: Config, model: Transformer, own: Arrays, loss: Loss, tokens: int) -> Diagnosis:
    variant = config.variant

    def watched() -> tuple[mx.array, list[tuple[mx.array, ...]]]:
        seen: list[tuple[mx.array, ...]] = []

        def observe(coefficients: Coefficients, streams: mx.array) -> None:
            found = _mix(coefficients).transpose(2, 0, 1), coefficients.read.T, coefficients.write.T, gram(streams)
            seen.append(tuple(map(mx.stop_gradient, found)))

        return loss(observe), seen

    seen, gradients, mix_gradients = _gradients(model, own, _zeros(config, tokens), watched)
    mix, read, write, products = (np.stack([np.array(part) for part in parts]) for parts in zip(*seen, strict=True))
    entries, parts = families.scale_entries(variant), families.parts(variant)
    return Diagnosis(
        mix=mix,
        read=read,
        write=write,
        gram=products,
        aligned=families.aligned(variant),
        scales=learning.scales({n: np.array(own[n]) for n in own if n.endswith(".scale")}, len(seen), entries),
        gradients=learning.gradient_norms(gradients, len(seen), parts),
        mix_gradient=np.stack([np.array(g.transpose(2, 0, 1)) for g in mix_gradients]) if mix_gradients else None,
    )


def _history(config: Config, model: Transformer, own: Arrays, loss: Loss) -> HistoryDiagnosis:
    reads = families.reads(config.variant, config.depth)
    assert reads is not None

    def watched() -> tuple[mx.array, list[mx.array]]:
        seen: list[mx.array] = []
        return loss(lambda weights: seen.append(mx.stop_gradient(weights))), seen

    weights, gradients, _ = _gradients(model, own, [], watched)
    norms = learning.gradient_norms(gradients, len(reads), families.parts(config.variant))
    return HistoryDiagnosis(reads, [np.array(one) for one in weights], norms)


def _gradients(
    model: Transformer, own: Arrays, zeros: list[mx.array], watched: Callable[[], tuple[mx.array, Any]]
) -> tuple[Any, dict[str, np.ndarray], list[mx.array]]:
    """What was seen, gradients of the loss by name of parameter, and those of `zeros`, added to each H_res in turn."""

    def shifted(own: Arrays, zeros: list[mx.array]) -> tuple[mx.array, Any]:
        model.update(tree_unflatten(list(own.items())))
        if not zeros:
            return watched()

        def add(index: int, coefficients: Coefficients) -> Coefficients:
            assert coefficients.mix is not None
            return coefficients._replace(mix=coefficients.mix + zeros[index])

        with rewired(model, add):
            return watched()

    if not own:
        return watched()[1], {}, []
    (_, seen), (gradients, of_zeros) = mx.value_and_grad(shifted, argnums=(0, 1))(own, zeros)
    model.update(tree_unflatten(list(own.items())))
    mx.eval(seen, gradients, of_zeros)
    return seen, {name: np.array(gradient) for name, gradient in gradients.items()}, of_zeros


def _zeros(config: Config, tokens: int) -> list[mx.array]:
    """Zeros [S, S, N] for every H_res that is learned."""
    own = families.connection(config.variant)
    if own is None or own.mix.chart == "identity":
        return []
    shape = (own.streams, own.streams, tokens if own.coefficients == "dynamic" else 1)
    return [mx.zeros(shape) for _ in families.wrapped(config.variant, config.depth)]


def gram(streams: mx.array) -> mx.array:
    """Inner products [N, S, S] of streams [N, S, C] over the square of a token's largest entry, in float32."""
    streams = streams.astype(mx.float32)
    scaled = streams / mx.maximum(mx.abs(streams).max((1, 2), keepdims=True), 1e-30)
    return scaled @ scaled.swapaxes(1, 2)


def _mix(coefficients: Coefficients) -> mx.array:
    """H_res [S, S, N], the identity where there is none."""
    return mx.eye(len(coefficients.read))[:, :, None] if coefficients.mix is None else coefficients.mix
