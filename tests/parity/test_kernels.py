"""The native tier answers to the eager one in float64: outputs and all gradients, odd shapes included."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mhc_exp.config.compose import compose
from mhc_exp.config.variants import Streams
from mhc_exp.torch.kernels import build, choice
from mhc_exp.torch.kernels.eager import Eager
from mhc_exp.torch.kernels.native import Native
from mhc_exp.torch.streams import HyperConnection
from mhc_exp.torch.wiring import Coefficients

TOLERANCE = 2e-6
"""Largest error over the largest entry, float32 against float64."""

CASES = {
    "mhc": ["variant=mhc"],
    "mhc static": ["variant=mhc", "variant.coefficients=static"],
    "columns last": ["variant=mhc", "variant.mix.order=columns_last", "variant.mix.apply=transposed"],
    "one iteration": ["variant=mhc", "variant.mix.iterations=1"],
    "softmax start, rows last": ["variant=deepseek_v4", "variant.mix.order=rows_last"],
    "identity_hc": ["variant=identity_hc"],
    "identity static": ["variant=identity_hc", "variant.coefficients=static"],
    "deepseek_v4": ["variant=deepseek_v4"],
    "deepseek_v41": ["variant=deepseek_v41"],
    "hc": ["variant=hc"],
    "oHC": ["variant=ohc"],
}


def _variant(case: str, streams: int) -> Streams:
    variant = compose([*CASES[case], "backend=cpu"]).variant
    assert isinstance(variant, Streams)
    return variant if case == "oHC" else dataclasses.replace(variant, streams=streams)


def _step(tier: Eager, connection: HyperConnection, x: Tensor, waiting: Tensor | None) -> list[Tensor]:
    """One connection around F(u) = sin u: the new streams, and everything that may be used elsewhere."""
    known = tier.prepare([connection])[0]
    coefficients, u, x = tier.enter(connection, x, waiting is None, known)
    if u is None:
        assert waiting is not None
        u, x = tier.read(x, waiting)
    streams = tier.write(x, torch.sin(u), coefficients)
    return [streams, u, *(part for part in coefficients if part is not None)]


def _compared(case: str, streams: int, width: int, tokens: int, seed: int, spread: float = 1.0) -> float:
    """The largest relative error of outputs and gradients."""
    variant = _variant(case, streams)
    reads_previous = variant.read_from == "previous"

    def run(tier: Eager, dtype: torch.dtype) -> list[Tensor]:
        own = np.random.default_rng(seed + 1)

        def tensor(*shape: int, scale: float = 1.0) -> Tensor:
            return torch.tensor(scale * own.standard_normal(shape), dtype=dtype)

        connection = HyperConnection(variant, width).to(dtype)
        with torch.no_grad():
            for name, parameter in connection.named_parameters():
                scale = (streams * width) ** -0.5 if name == "weight" else 1.0
                parameter.copy_(tensor(*parameter.shape, scale=scale * spread))
        x = tensor(tokens, variant.streams, width).requires_grad_()
        waiting = tensor(variant.streams, tokens).requires_grad_() if reads_previous else None
        outputs = _step(tier, connection, x, waiting)
        loss = sum((output * tensor(*output.shape)).sum() for output in outputs)
        leaves = [x, *connection.parameters(), *([] if waiting is None else [waiting])]
        gradients = torch.autograd.grad(loss, leaves, materialize_grads=True)  # type: ignore[arg-type]
        return [value.detach().double() for value in (*outputs, *gradients)]

    expected, found = run(Eager(), torch.float64), run(Native(variant), torch.float32)
    errors = []
    for e, f in zip(expected, found, strict=True):
        assert e.shape == f.shape
        errors.append(float((e - f).abs().max() / e.abs().max().clamp(min=1e-3)))
    return max(errors)


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_equal_the_eager_tier(case: str):
    assert _compared(case, streams=4, width=96, tokens=50, seed=0) < TOLERANCE


@pytest.mark.parametrize("streams", range(2, 9))
def test_any_number_of_streams(streams: int):
    assert _compared("mhc", streams, width=33, tokens=17, seed=streams) < TOLERANCE
    assert _compared("mhc static", streams, width=33, tokens=17, seed=streams) < TOLERANCE


@settings(max_examples=60, deadline=None)
@given(
    case=st.sampled_from(sorted(CASES)),
    streams=st.sampled_from([2, 4, 5]),
    width=st.integers(1, 150),
    tokens=st.integers(1, 70),
    seed=st.integers(0, 1000),
)
def test_any_shape(case: str, streams: int, width: int, tokens: int, seed: int):
    assert _compared(case, streams, width, tokens, seed) < 2 * TOLERANCE
