"""The transformer body in MLX. Mirrors mhc_exp/torch/model.py; the specification is mhc_exp.body.reference.

Axes: B batch, T time, C width, H heads, D = C/H, V vocabulary.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np
from mlx import nn

from mhc_exp.body.parameters import hidden_width
from mhc_exp.body.reference import rotary_tables
from mhc_exp.config.schema import Config, Model
from mhc_exp.mlx.topology import build
from mhc_exp.mlx.wiring import Observer, SourceObserver


class Transformer(nn.Module):
    """Decoder-only transformer whose wiring is `self.topology`. Load its parameters: see body.parameters."""

    def __init__(self, config: Config, vocab_size: int):
        super().__init__()
        model = config.model
        self.embed = nn.Embedding(vocab_size, model.width)
        if model.positions == "learned":
            self.positions = nn.Embedding(model.seq_len, model.width)
        self.blocks = [Block(model) for _ in range(config.depth)]
        self.topology = build(config.variant, model.width, config.depth)
        self.norm = make_norm(model)
        if not model.tied_head:
            self.head = nn.Linear(model.width, vocab_size, bias=False)
        self.dropout = nn.Dropout(model.dropout)

    def __call__(self, tokens: mx.array, observe: Observer | SourceObserver | None = None) -> mx.array:
        """[B, T] int32 -> scores [B, T, V]."""
        x = self.embed(tokens)
        if "positions" in self:
            x = x + self.positions.weight[: tokens.shape[1]]
        x = self.topology(self.dropout(x), self.sublayers(), observe)
        x = self.norm(x)
        return apply(self.head, x) if "head" in self else self.embed.as_linear(x)

    def sublayers(self) -> list[Attention | MLP]:
        """What the wiring connects: attention and MLP of each block in turn."""
        return [sublayer for block in self.blocks for sublayer in (block.attention, block.mlp)]


class Block(nn.Module):
    """The two sublayers of a block; how they are connected is the wiring's business."""

    def __init__(self, model: Model):
        super().__init__()
        self.attention = Attention(model)
        self.mlp = MLP(model)


class Attention(nn.Module):
    """Causal multi-head attention, inner(norm(x)), no residual."""

    def __init__(self, model: Model):
        super().__init__()
        self._heads = model.heads
        self._rotary = None
        if model.positions == "rotary":
            cos, sin = rotary_tables(model.seq_len, model.width // model.heads)
            self._rotary = mx.array(cos.astype(np.float32)), mx.array(sin.astype(np.float32))
        self.norm = make_norm(model)
        self.qkv = nn.Linear(model.width, 3 * model.width, bias=model.bias)
        self.out = nn.Linear(model.width, model.width, bias=model.bias)
        self.dropout = nn.Dropout(model.dropout)

    def __call__(self, x: mx.array) -> mx.array:
        return self.inner(self.norm(x))

    def inner(self, x: mx.array) -> mx.array:
        """The sublayer after its norm."""
        return self.attend(*mx.split(apply(self.qkv, x), 3, axis=-1))

    def project(self, query: mx.array, key: mx.array, value: mx.array) -> tuple[mx.array, ...]:
        """q, k, v [B, T, C] from the (normed) inputs of each."""
        weights = mx.split(self.qkv.weight, 3)
        biases = mx.split(self.qkv.bias, 3) if "bias" in self.qkv else (0, 0, 0)
        inputs = (query, key, value)
        return tuple(x.astype(w.dtype) @ w.T + b for x, w, b in zip(inputs, weights, biases, strict=True))

    def attend(self, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        """Output [B, T, C] of attention on projected q, k, v [B, T, C]."""
        batch, time, width = q.shape
        depth = width // self._heads
        q, k, v = (x.reshape(batch, time, self._heads, depth).transpose(0, 2, 1, 3) for x in (q, k, v))
        if self._rotary is not None:
            q, k = self.rotate(q, self._rotary), self.rotate(k, self._rotary)
        mixed = mx.fast.scaled_dot_product_attention(q, k, v, scale=depth**-0.5, mask="causal")
        return self.dropout(apply(self.out, mixed.transpose(0, 2, 1, 3).reshape(batch, time, width)))

    @staticmethod
    def rotate(x: mx.array, tables: tuple[mx.array, mx.array]) -> mx.array:
        """Rotary positions on [B, H, T, D]."""
        cos, sin = (table[: x.shape[2]].astype(x.dtype) for table in tables)
        a, b = mx.split(x, 2, axis=-1)
        return mx.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


class MLP(nn.Module):
    """GELU or SwiGLU feed-forward, inner(norm(x)), no residual."""

    def __init__(self, model: Model):
        super().__init__()
        hidden = hidden_width(model)
        self.norm = make_norm(model)
        if model.activation == "swiglu":
            self.gate = nn.Linear(model.width, hidden, bias=model.bias)
        self.up = nn.Linear(model.width, hidden, bias=model.bias)
        self.down = nn.Linear(hidden, model.width, bias=model.bias)
        self.dropout = nn.Dropout(model.dropout)

    def __call__(self, x: mx.array) -> mx.array:
        return self.inner(self.norm(x))

    def inner(self, x: mx.array) -> mx.array:
        """The sublayer after its norm."""
        up = apply(self.up, x)
        hidden = nn.silu(apply(self.gate, x)) * up if "gate" in self else nn.gelu(up)
        return self.dropout(apply(self.down, hidden))


def apply(layer: nn.Linear, x: mx.array) -> mx.array:
    """`layer` in the arithmetic of its weights, as autocast does in PyTorch; norms and streams stay float32."""
    return layer(x.astype(layer.weight.dtype))


def make_norm(model: Model) -> nn.Module:
    """The body's norm with its stated eps."""
    if model.norm == "layernorm":
        return nn.LayerNorm(model.width, eps=model.norm_eps, bias=model.bias)
    return nn.RMSNorm(model.width, eps=model.norm_eps)
