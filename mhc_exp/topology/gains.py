"""Gains of residual mixing matrices and numbers of streams, in float64 numpy; diagnosis.py makes columns of them.

Axes: K connections in order of depth, N tokens (1 if static), S streams. A_k is H_res as applied to column-stacked
streams. Amax gains are those of arXiv:2512.24880 section 5.4: forward = largest absolute row sum, backward = largest
absolute column sum; composites are the products A_K ... A_(l+1) from any connection l to the end of the network.
Amax only sees amplification, so attenuation is reported beside it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

SIGMA_FLOOR = 1e-16
"""Singular values below this share of the largest one are rounding of the product."""


def matrix_gains(mix: np.ndarray) -> dict[str, float]:
    """Everything that follows from the matrices [K, N, S, S] alone.

    - gain/proxy_log10_max_entry: the seed demo's proxy, log10 of the largest entry of the product of all H_res
      (averaged over tokens first if dynamic);
    - gain/{forward,backward}_amax_{mean,max}: largest composite gain of a token, mean and max over tokens;
    - gain/single_{forward,backward}_amax_max: the same of single matrices;
    - gain/min_column_sum: smallest column sum of the whole product (attenuation that Amax hides);
    - gain/column_log_spread: largest |log column sum| of the whole product (inf, hence left out, if one is zero);
    - gain/sigma_max: largest singular value of the whole product, mean over tokens;
    - gain/sigma_min_log10: log10 of smallest over largest singular value of the whole product, mean over tokens
      (-16 means: below rounding, the product has collapsed);
    - gain/uniform_distance: spectral norm of the whole product minus 11^T/S, mean over tokens;
    - gain/difference_energy: share of the energy of differences between streams that the whole product keeps,
      ||(I-J) P (I-J)||_F^2 / (S-1) with J = 11^T/S, mean over tokens (1: all, 0: none);
    - mix/diagonal: mean diagonal entry of H_res;
    - mix/identity_distance: mean Frobenius distance of H_res from I over sqrt(S);
    - mix/sinkhorn_residual: largest |row sum - 1| or |column sum - 1| of a single H_res.
    """
    streams = mix.shape[-1]
    rows, columns = mix.sum(axis=-1), mix.sum(axis=-2)
    with np.errstate(over="ignore", invalid="ignore"):
        forward, backward, whole = composite_gains(mix)
    if not np.isfinite(whole).all():
        return {"gain/forward_amax_max": np.inf, "gain/backward_amax_max": np.inf}
    singular = np.linalg.svd(whole, compute_uv=False)
    condition = np.maximum(singular[:, -1] / np.maximum(singular[:, 0], 1e-300), SIGMA_FLOOR)
    from_uniform = np.linalg.norm(whole - 1 / streams, ord=2, axis=(-2, -1))
    centring = np.eye(streams) - 1 / streams
    kept = (np.linalg.norm(centring @ whole @ centring, axis=(-2, -1)) ** 2).mean() / max(streams - 1, 1)
    with np.errstate(divide="ignore"):
        log_columns = np.abs(np.log(np.abs(whole.sum(axis=-2))))
    from_identity = np.linalg.norm(mix - np.eye(streams), axis=(-2, -1)) / np.sqrt(streams)
    return {
        "gain/proxy_log10_max_entry": proxy_log10_max_entry(mix),
        "gain/forward_amax_mean": float(forward.mean()),
        "gain/forward_amax_max": float(forward.max()),
        "gain/backward_amax_mean": float(backward.mean()),
        "gain/backward_amax_max": float(backward.max()),
        "gain/single_forward_amax_max": float(np.abs(rows).max()),
        "gain/single_backward_amax_max": float(np.abs(columns).max()),
        "gain/min_column_sum": float(whole.sum(axis=-2).min()),
        "gain/column_log_spread": float(log_columns.max()),
        "gain/sigma_max": float(singular[:, 0].mean()),
        "gain/sigma_min_log10": float(np.log10(condition).mean()),
        "gain/uniform_distance": float(from_uniform.mean()),
        "gain/difference_energy": float(kept),
        "mix/diagonal": float(np.diagonal(mix, axis1=-2, axis2=-1).mean()),
        "mix/identity_distance": float(from_identity.mean()),
        "mix/sinkhorn_residual": float(max(np.abs(rows - 1).max(), np.abs(columns - 1).max())),
    }


def composite_gains(mix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Largest forward and backward gain [N] over the composites A_K ... A_(l+1), and the whole product [N, S, S]."""
    product = np.broadcast_to(np.eye(mix.shape[-1]), mix.shape[1:])
    forward, backward = np.zeros(mix.shape[1]), np.zeros(mix.shape[1])
    for product in suffix_products(mix):
        forward = np.maximum(forward, np.abs(product.sum(axis=-1)).max(axis=-1))
        backward = np.maximum(backward, np.abs(product.sum(axis=-2)).max(axis=-1))
    return forward, backward, product


def suffix_products(mix: np.ndarray) -> Iterator[np.ndarray]:
    """The products [N, S, S] from connection K to the end, from K - 1 to the end, ..., of all of them."""
    product = np.broadcast_to(np.eye(mix.shape[-1]), mix.shape[1:])
    for matrix in mix[::-1]:
        product = product @ matrix
        yield product


def amax(mix: np.ndarray) -> np.ndarray:
    """[2]: largest absolute row sum and column sum of matrices [N, S, S], mean over tokens."""
    return np.array([np.abs(mix.sum(axis=axis)).max(axis=-1).mean() for axis in (-1, -2)])


def proxy_log10_max_entry(mix: np.ndarray) -> float:
    """The seed demo's gain proxy: log10 max |A_K ... A_1|, tokens averaged first; never below -12."""
    product = np.eye(mix.shape[-1])
    for matrix in mix.astype(np.float64).mean(axis=1):
        product = matrix @ product
    return float(np.log10(max(np.abs(product).max(), 1e-12)))


def mean_cosine(gram: np.ndarray) -> float:
    """streams/cosine: mean cosine of all pairs of different streams, from inner products [..., S, S]; 1 if S = 1."""
    streams = gram.shape[-1]
    if streams == 1:
        return 1.0
    lengths = np.sqrt(np.maximum(np.diagonal(gram, axis1=-2, axis2=-1).astype(np.float64), 1e-300))
    cosine = gram / (lengths[..., :, None] * lengths[..., None, :])
    return float(cosine[..., ~np.eye(streams, dtype=bool)].mean())


def effective(weights: np.ndarray) -> float:
    """streams/effective: mean (sum p)^2 / sum p^2 of absolute weights [..., S]; 1 if one stream is used, S if all."""
    weights = np.abs(weights.astype(np.float64))
    return float((weights.sum(-1) ** 2 / np.maximum((weights**2).sum(-1), 1e-300)).mean())


def dominant_share(weights: np.ndarray) -> np.ndarray:
    """[K]: share of the largest of the absolute weights [K, N, S], mean over tokens (1/S: all equal, 1: one stream)."""
    sizes = np.abs(weights.astype(np.float64))
    return (sizes.max(-1) / np.maximum(sizes.sum(-1), 1e-300)).mean(1)


def stream_norms(gram: np.ndarray) -> np.ndarray:
    """[K, N, S]: L2 norm of every stream, up to a factor per token, from inner products [K, N, S, S]."""
    return np.sqrt(np.maximum(np.diagonal(gram, axis1=-2, axis2=-1).astype(np.float64), 0.0))
