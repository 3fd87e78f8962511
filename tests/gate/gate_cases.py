"""What the gate runs on: every wiring in conf/variant, in cases of tests/parity."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "parity"))

import cases

__all__ = ["cases", "scores"]


def scores(trainer, tokens: np.ndarray, observe=None) -> np.ndarray:
    """[B, T, V] of a trainer's model for tokens [B, T], without gradient or dropout; `observe` sees coefficients."""
    trainer.model.eval()
    if type(trainer).__name__ == "TorchTrainer":
        import torch

        with torch.no_grad():
            return trainer.model(torch.from_numpy(tokens.astype(np.int64)), observe).numpy()
    import mlx.core as mx

    return np.array(trainer.model(mx.array(tokens), observe))
