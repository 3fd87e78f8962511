"""Steps recorded by CUDA itself; skipped where there is none: python -m pytest -m triton tests/triton_tier."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mhc_exp.config.compose import compose
from mhc_exp.data.task import Batch
from mhc_exp.torch.trainer import TorchTrainer

pytestmark = [
    pytest.mark.triton,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: CUDA graphs exist on one only"),
]
VOCABULARY, STEPS = 61, 8


def curve(words: list[str]) -> np.ndarray:
    own = ["backend=cuda", "backend.dtype=float32", "backend.tf32=false", "training.recompute=none", "depth=4"]
    trainer = TorchTrainer(compose([*own, *words]), VOCABULARY)
    random = np.random.default_rng(0)
    for step in range(1, STEPS + 1):
        tokens = random.integers(VOCABULARY, size=(4, 65)).astype(np.int32)
        mask = random.random((4, 64)) < 0.8
        trainer.step(step, Batch(tokens[:, :-1], tokens[:, 1:], mask), 1e-3)
    return np.array([[result.loss, result.grad_norm] for result in trainer.fetch()])


@pytest.mark.parametrize("kernels", ["eager", "auto"])
@pytest.mark.parametrize("variant", ["baseline", "mhc", "hc", "attnres"])
def test_a_replayed_step_is_the_step(variant: str, kernels: str) -> None:
    words = [f"variant={variant}", f"backend.kernels={kernels}"]
    alone, graph = curve(words), curve([*words, "backend.graphs=true"])
    np.testing.assert_allclose(graph, alone, rtol=1e-4, atol=1e-5)
