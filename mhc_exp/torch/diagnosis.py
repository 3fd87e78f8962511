"""What a wiring does on a batch, in PyTorch: coefficients, streams, and gradients of its connections alone.

Mirrors mhc_exp/mlx/diagnosis.py; what is made of it is said in mhc_exp.topology.diagnosis. Axes: N tokens, S streams,
C width. One forward and one backward pass; the body's weights get no gradient, which saves a third of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mhc_exp.body.parameters import is_connection
from mhc_exp.config.schema import Config
from mhc_exp.config.variants import Variant
from mhc_exp.topology import families, learning
from mhc_exp.topology.diagnosis import Diagnosis, HistoryDiagnosis
from mhc_exp.torch.wiring import Coefficients, Observer, SourceObserver

Loss = Callable[[Observer | SourceObserver], Tensor]
"""The mean loss of a batch, watched by an observer."""


def diagnose(config: Config, parameters: Mapping[str, Tensor], loss: Loss) -> Diagnosis | HistoryDiagnosis | None:
    """`parameters` are those of the model by name. None for a wiring that has nothing to report."""
    own = {name: parameter for name, parameter in parameters.items() if is_connection(name)}
    if families.reads(config.variant, config.depth) is not None:
        return _history(config, own, loss)
    if families.streams_of(config.variant) is not None:
        return _streams(config, own, loss)
    return None


def _streams(config: Config, own: Mapping[str, Tensor], loss: Loss) -> Diagnosis:
    variant = config.variant
    seen: list[tuple[Coefficients, Tensor]] = []
    mixes: list[Tensor] = []

    def observe(coefficients: Coefficients, streams: Tensor) -> None:
        seen.append((coefficients, gram(streams.detach())))
        if coefficients.mix is not None and families.connection(variant) is not None:
            mixes.append(coefficients.mix)

    return streams_diagnosis(variant, seen, own, *_gradients(loss(observe), own, mixes))


def streams_diagnosis(
    variant: Variant,
    seen: Sequence[tuple[Coefficients, Tensor]],
    own: Mapping[str, Tensor],
    gradients: Mapping[str, np.ndarray],
    mix_gradients: Sequence[Tensor],
) -> Diagnosis:
    """Of K connections: their coefficients with the `gram` of the streams after each, their parameters and gradients by
    name (`topology.connections.K.` in front), and dL/dH_res [S, S, N] of each, or none.
    """
    entries, parts = families.scale_entries(variant), families.parts(variant)
    return Diagnosis(
        mix=np.stack([host(_mix(coefficients).permute(2, 0, 1)) for coefficients, _ in seen]),
        read=np.stack([host(coefficients.read.t()) for coefficients, _ in seen]),
        write=np.stack([host(coefficients.write.t()) for coefficients, _ in seen]),
        gram=np.stack([host(products) for _, products in seen]),
        aligned=families.aligned(variant),
        scales=learning.scales({name: host(own[name]) for name in own if name.endswith(".scale")}, len(seen), entries),
        gradients=learning.gradient_norms(gradients, len(seen), parts),
        mix_gradient=np.stack([host(one.permute(2, 0, 1)) for one in mix_gradients]) if mix_gradients else None,
    )


def _history(config: Config, own: Mapping[str, Tensor], loss: Loss) -> HistoryDiagnosis:
    reads = families.reads(config.variant, config.depth)
    assert reads is not None
    weights: list[Tensor] = []
    gradients, _ = _gradients(loss(weights.append), own, [])
    norms = learning.gradient_norms(gradients, len(reads), families.parts(config.variant))
    return HistoryDiagnosis(reads, [host(one) for one in weights], norms)


def _gradients(
    loss: Tensor, own: Mapping[str, Tensor], also: list[Tensor]
) -> tuple[dict[str, np.ndarray], list[Tensor]]:
    """Gradients of `loss` by name of parameter, and those of the tensors `also`; zero where unused."""
    wanted = [*own.values(), *also]
    if not wanted:
        return {}, []
    found = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    named = {name: host(gradient) for name, gradient in zip(own, found, strict=False)}
    return named, list(found[len(own) :])


def gram(streams: Tensor) -> Tensor:
    """Inner products [N, S, S] of streams [N, S, C] over the square of a token's largest entry, in float32 at least."""
    streams = streams.to(torch.promote_types(streams.dtype, torch.float32))
    scaled = streams / streams.abs().amax((1, 2), keepdim=True).clamp(min=1e-30)
    with torch.autocast(streams.device.type, enabled=False):
        return scaled @ scaled.transpose(1, 2)


def _mix(coefficients: Coefficients) -> Tensor:
    """H_res [S, S, N], the identity where there is none."""
    if coefficients.mix is not None:
        return coefficients.mix
    return torch.eye(len(coefficients.read), device=coefficients.read.device).unsqueeze(2)


def host(tensor: Tensor) -> np.ndarray:
    """In float32 at least."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32)).cpu().numpy()
