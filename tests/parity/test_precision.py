"""bfloat16 bodies: near float32, with weights, optimizer state and connection coefficients still in float32."""

from __future__ import annotations

import cases
import numpy as np
import pytest


@pytest.mark.parametrize("backend", cases.TRAINERS)
@pytest.mark.parametrize(
    "wiring",
    [
        "baseline",
        "hc",
        "mhc",
        "deepseek_v4",
        "layer_scale",
        "deepnorm",
        "laurel",
        "gated_residual",
        "vwn",
        "xhc",
        "hyperloop",
    ],
)
def test_bfloat16_is_near_float32_and_trains(wiring, backend):
    batch = cases.batch()
    exact = cases.TRAINERS[backend](cases.tiny(cases.WIRINGS[wiring]))
    trainer = cases.TRAINERS[backend](cases.tiny([*cases.WIRINGS[wiring], "backend.dtype=bfloat16"]))
    rough = trainer.evaluate([batch]).loss
    assert rough == pytest.approx(exact.evaluate([batch]).loss, rel=2e-2)
    assert rough != exact.evaluate([batch]).loss, "bfloat16 must really be in use"
    for step in range(1, 11):
        trainer.step(step, batch, 1e-2)
    losses = [result.loss for result in trainer.fetch()]
    assert losses[-1] < losses[0]
    state = trainer.state()
    assert {array.dtype for array in (*state.model.values(), *state.optimizer.values())} == {np.dtype(np.float32)}


@pytest.mark.parametrize("backend", cases.TRAINERS)
def test_coefficients_stay_in_float32_under_bfloat16(backend):
    """In bfloat16 the row sums of Sinkhorn would be off by 3e-3 (Megatron-LM issue 6172)."""
    config = cases.tiny(["variant=mhc", "backend.dtype=bfloat16"])
    trainer = cases.with_weights(cases.TRAINERS[backend](config), cases.perturbed(config))
    diagnosis = trainer.diagnose(cases.batch())
    assert np.abs(diagnosis.mix.sum(axis=-1) - 1).max() < 1e-6


@pytest.mark.parametrize(
    "wiring",
    ["baseline", "hc", "mhc", "rezero", "deepnorm", "laurel", "gated_residual", "frac", "vwn", "xhc", "hyperloop"],
)
def test_matrix_products_run_in_bfloat16_and_streams_in_float32_on_mlx(wiring, monkeypatch):
    """As autocast does in PyTorch, whatever the wiring: otherwise a comparison of wirings compares precisions."""
    import mlx.core as mx

    from mhc_exp.mlx import model

    seen = []
    monkeypatch.setattr(model.nn.Linear, "__call__", spied(model.nn.Linear.__call__, seen))
    trainer = cases.mlx_trainer(cases.tiny([*cases.WIRINGS[wiring], "backend.dtype=bfloat16"]))
    hidden = trainer.model.topology(mx.zeros((1, 6, 8)), trainer.model.sublayers())
    assert hidden.dtype == mx.float32
    assert set(seen) == {(mx.bfloat16, mx.bfloat16)}


def spied(call, seen):
    def spy(self, x):
        seen.append((x.dtype, self.weight.dtype))
        return call(self, x)

    return spy
