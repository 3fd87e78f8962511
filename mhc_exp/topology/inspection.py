"""What a trained wiring has learned, as numbers per connection, in float64 numpy.

Axes: K connections in order of depth, N tokens (1 if static), S streams. A mixing matrix is H_res as applied to
column-stacked streams. Everything that is also measured during training is in `mhc_exp.topology.diagnosis`.
"""

from __future__ import annotations

import numpy as np


def identity_distance(mix: np.ndarray) -> np.ndarray:
    """[K]: Frobenius distance of H_res [K, N, S, S] from I over sqrt(S), mean over tokens."""
    return distance(mix, np.eye(mix.shape[-1]))


def distance(mix: np.ndarray, other: np.ndarray) -> np.ndarray:
    """[K]: Frobenius distance of two sets of matrices [K, N, S, S] over sqrt(S), mean over tokens."""
    apart = mix.astype(np.float64) - other
    return np.linalg.norm(apart, axis=(-2, -1)).mean(axis=1) / np.sqrt(mix.shape[-1])


def constraint_residual(mix: np.ndarray) -> np.ndarray:
    """[K]: largest |row sum - 1| or |column sum - 1| of any token's H_res (Sinkhorn's residual for that chart)."""
    sums = np.stack([mix.sum(axis=axis, dtype=np.float64) for axis in (-1, -2)])
    return np.abs(sums - 1).max(axis=(0, 2, 3))


def token_spread(values: np.ndarray) -> np.ndarray:
    """[K]: how much coefficients [K, N, ...] differ between tokens, as a share of their mean over tokens.

    Root mean square over tokens of the distance from the mean, over the norm of the mean: 0 if all tokens get the same
    coefficients.
    """
    flat = values.reshape(*values.shape[:2], -1).astype(np.float64)
    mean = flat.mean(axis=1, keepdims=True)
    spread = np.sqrt(((flat - mean) ** 2).sum(-1).mean(1))
    return spread / np.maximum(np.linalg.norm(mean[:, 0], axis=-1), 1e-300)


def cosine_matrices(gram: np.ndarray) -> np.ndarray:
    """[K, S, S]: cosine between streams after each connection, mean over tokens, from inner products [K, N, S, S]."""
    gram = gram.astype(np.float64)
    lengths = np.sqrt(np.maximum(np.diagonal(gram, axis1=-2, axis2=-1), 1e-300))
    return (gram / (lengths[..., :, None] * lengths[..., None, :])).mean(axis=1)


def selection(count: int, most: int = 24) -> list[int]:
    """At most `most` of `count` indices, evenly spaced, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, most))})
