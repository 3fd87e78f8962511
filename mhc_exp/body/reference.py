"""The body in float64 numpy: what attention, MLP, norms and the loss mean, for parity with both backends.

Axes: B batch, T time, C width, H heads, D = C/H, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from mhc_exp.config.schema import Config, Model, Streams
from mhc_exp.data.task import Batch
from mhc_exp.topology import reference as topology

Parameters = Mapping[str, np.ndarray]

ROTARY_BASE = 10000.0
"""Base of the rotary frequencies (RoFormer, arXiv:2104.09864)."""

_erf = np.vectorize(math.erf, otypes=[np.float64])


def loss(parameters: Parameters, config: Config, batch: Batch) -> float:
    """Mean cross entropy in nats over the supervised tokens."""
    scores = logits(parameters, config, batch.inputs)
    shifted = scores - scores.max(axis=-1, keepdims=True)
    log_probability = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    picked = np.take_along_axis(log_probability, batch.targets[..., None].astype(np.int64), axis=-1)[..., 0]
    return float(-picked[batch.mask].mean())


def logits(parameters: Parameters, config: Config, tokens: np.ndarray) -> np.ndarray:
    """[B, T, V] next-token scores for tokens [B, T]."""
    model = config.model
    x = parameters["embed.weight"][tokens]
    if model.positions == "learned":
        x = x + parameters["positions.weight"][: tokens.shape[1]]
    x = topology.forward(x, sublayers(parameters, config), parameters, config.variant)
    head = parameters["embed.weight" if model.tied_head else "head.weight"]
    return norm(x, parameters, "norm", model) @ head.T


def sublayers(parameters: Parameters, config: Config) -> list[Callable[[np.ndarray], np.ndarray]]:
    """The 2L sublayers F(norm(x)) without residual, or L whole blocks with their residuals if site=block."""

    def attend(prefix: str) -> Callable[[np.ndarray], np.ndarray]:
        return lambda x: attention(x, parameters, prefix, config.model)

    def feed(prefix: str) -> Callable[[np.ndarray], np.ndarray]:
        return lambda x: mlp(x, parameters, prefix, config.model)

    pairs = [(attend(f"blocks.{i}.attention"), feed(f"blocks.{i}.mlp")) for i in range(config.depth)]
    if isinstance(config.variant, Streams) and config.variant.site == "block":
        return [_block(first, second) for first, second in pairs]
    return [sublayer for pair in pairs for sublayer in pair]


def _block(attention: Callable, mlp: Callable) -> Callable[[np.ndarray], np.ndarray]:
    def block(x: np.ndarray) -> np.ndarray:
        x = x + attention(x)
        return x + mlp(x)

    return block


def linear(x: np.ndarray, parameters: Parameters, name: str) -> np.ndarray:
    """x W^T + b."""
    y = x @ parameters[f"{name}.weight"].T
    return y + parameters[f"{name}.bias"] if f"{name}.bias" in parameters else y


def norm(x: np.ndarray, parameters: Parameters, name: str, model: Model) -> np.ndarray:
    """LayerNorm or RMSNorm over the last axis."""
    if model.norm == "layernorm":
        x = x - x.mean(axis=-1, keepdims=True)
    x = x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + model.norm_eps) * parameters[f"{name}.weight"]
    return x + parameters[f"{name}.bias"] if f"{name}.bias" in parameters else x


def attention(x: np.ndarray, parameters: Parameters, name: str, model: Model) -> np.ndarray:
    """Causal multi-head attention of norm(x)."""
    batch, time, width = x.shape
    depth = width // model.heads
    qkv = linear(norm(x, parameters, f"{name}.norm", model), parameters, f"{name}.qkv")
    q, k, v = qkv.reshape(batch, time, 3, model.heads, depth).transpose(2, 0, 3, 1, 4)
    if model.positions == "rotary":
        q, k = rotate(q), rotate(k)
    scores = q @ k.transpose(0, 1, 3, 2) / math.sqrt(depth)
    scores = np.where(np.tril(np.ones((time, time), bool)), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    mixed = (weights @ v).transpose(0, 2, 1, 3).reshape(batch, time, width)
    return linear(mixed, parameters, f"{name}.out")


def rotary_tables(time: int, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin [T, D/2] of the rotation angles, float64."""
    angles = np.arange(time)[:, None] * ROTARY_BASE ** (-np.arange(depth // 2) / (depth // 2))
    return np.cos(angles), np.sin(angles)


def rotate(x: np.ndarray) -> np.ndarray:
    """Rotary positions on [B, H, T, D]: the halves of D are the two coordinates of each plane."""
    half = x.shape[-1] // 2
    cos, sin = rotary_tables(x.shape[-2], x.shape[-1])
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def mlp(x: np.ndarray, parameters: Parameters, name: str, model: Model) -> np.ndarray:
    """GELU (exact, with erf) or SwiGLU feed-forward of norm(x)."""
    x = norm(x, parameters, f"{name}.norm", model)
    up = linear(x, parameters, f"{name}.up")
    if model.activation == "swiglu":
        gate = linear(x, parameters, f"{name}.gate")
        hidden = gate / (1 + np.exp(-gate)) * up
    else:
        hidden = 0.5 * up * (1 + _erf(up / math.sqrt(2)))
    return linear(hidden, parameters, f"{name}.down")
