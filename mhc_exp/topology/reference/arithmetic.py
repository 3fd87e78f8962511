"""What the reference forwards share: the sublayers they are given, names of parameters, and activations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

_erf = np.vectorize(math.erf, otypes=[np.float64])

Parameters = Mapping[str, np.ndarray]
Branch = Callable[[np.ndarray], np.ndarray]
"""What a connection wraps: [B, T, C] -> [B, T, C]."""

SourceObserver = Callable[[np.ndarray], None]
"""Called with the weights [W, sources, N] of every read of earlier outputs: W ways or heads, N tokens (1 if static)."""


class Sublayer(Protocol):
    """Attention or MLP of one block, F(x) = inner(norm(x)) on [B, T, C], without a residual of its own."""

    def __call__(self, x: np.ndarray) -> np.ndarray: ...

    def norm(self, x: np.ndarray) -> np.ndarray: ...

    def inner(self, x: np.ndarray) -> np.ndarray: ...


def unobserved(weights: np.ndarray) -> None:
    """Nobody asks for the weights of a read."""


def below(prefix: str, parameters: Parameters) -> Parameters:
    """The parameters whose names begin with `prefix`, without it."""
    return {name[len(prefix) :]: value for name, value in parameters.items() if name.startswith(prefix)}


def with_residuals(sublayers: Sequence[Branch]) -> Branch:
    """Sublayers in turn, each added to what it reads: one or more blocks that keep their inner residuals."""

    def blocks(x: np.ndarray) -> np.ndarray:
        for sublayer in sublayers:
            x = x + sublayer(x)
        return x

    return blocks


def rms(x: np.ndarray, eps: float) -> np.ndarray:
    """x / sqrt(mean(x^2) + eps) over the last axis."""
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps)


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def log_softmax(z: np.ndarray, axis: int = -1) -> np.ndarray:
    shifted = z - z.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def gelu(z: np.ndarray) -> np.ndarray:
    """Exact GELU, with erf."""
    return 0.5 * z * (1 + _erf(z / math.sqrt(2)))
