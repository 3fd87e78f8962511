"""The transformer body in PyTorch. Mirrors mhc_exp/mlx/model.py; the specification is mhc_exp.body.reference.

Axes: B batch, T time, C width, H heads, D = C/H, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mhc_exp.body.parameters import hidden_width
from mhc_exp.body.reference import rotary_tables
from mhc_exp.config.schema import Config, Model
from mhc_exp.torch.topology import build
from mhc_exp.torch.wiring import Observer, SourceObserver


class Transformer(nn.Module):
    """Decoder-only transformer whose wiring is `self.topology`. Load its parameters: see body.parameters."""

    def __init__(self, config: Config, vocab_size: int):
        super().__init__()
        model = config.model
        self.embed = nn.Embedding(vocab_size, model.width)
        self.positions = nn.Embedding(model.seq_len, model.width) if model.positions == "learned" else None
        blocks = nn.ModuleList(Block(model) for _ in range(config.depth))
        self.blocks: Sequence[Block] = blocks  # type: ignore[assignment]
        self.topology = build(config.variant, model.width, config.depth)
        self.norm = make_norm(model)
        self.head = None if model.tied_head else nn.Linear(model.width, vocab_size, bias=False)
        self.dropout = nn.Dropout(model.dropout)

    def forward(self, tokens: Tensor, observe: Observer | SourceObserver | None = None) -> Tensor:
        """[B, T] int64 -> scores [B, T, V]."""
        x = self.embed(tokens)
        if self.positions is not None:
            x = x + self.positions.weight[: tokens.shape[1]]
        x = self.topology(self.dropout(x), self.sublayers(), observe)
        x = self.norm(x)
        return functional.linear(x, self.embed.weight if self.head is None else self.head.weight)

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
        self.heads = model.heads
        self.rotary = model.positions == "rotary"
        self.norm = make_norm(model)
        self.qkv = nn.Linear(model.width, 3 * model.width, bias=model.bias)
        self.out = nn.Linear(model.width, model.width, bias=model.bias)
        self.dropout = nn.Dropout(model.dropout)
        if self.rotary:
            cos, sin = rotary_tables(model.seq_len, model.width // model.heads)
            self.cos: Tensor
            self.sin: Tensor
            self.register_buffer("cos", torch.from_numpy(cos).float(), persistent=False)
            self.register_buffer("sin", torch.from_numpy(sin).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.norm(x))

    def inner(self, x: Tensor) -> Tensor:
        """The sublayer after its norm."""
        return self.attend(*self.qkv(x).chunk(3, dim=-1))

    def project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """q, k, v [B, T, C] from the (normed) inputs of each."""
        weights = self.qkv.weight.chunk(3)
        biases = (None, None, None) if self.qkv.bias is None else self.qkv.bias.chunk(3)
        inputs = (query, key, value)
        return tuple(functional.linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Output [B, T, C] of attention on projected q, k, v [B, T, C]."""
        batch, time, width = q.shape
        q, k, v = (x.view(batch, time, self.heads, width // self.heads).transpose(1, 2) for x in (q, k, v))
        if self.rotary:
            q, k = self.rotate(q), self.rotate(k)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.dropout(self.out(mixed.transpose(1, 2).reshape(batch, time, width)))

    def rotate(self, x: Tensor) -> Tensor:
        """Rotary positions on [B, H, T, D]."""
        cos, sin = self.cos[: x.shape[2]].to(x.dtype), self.sin[: x.shape[2]].to(x.dtype)
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class MLP(nn.Module):
    """GELU or SwiGLU feed-forward, inner(norm(x)), no residual."""

    def __init__(self, model: Model):
        super().__init__()
        hidden = hidden_width(model)
        self.norm = make_norm(model)
        self.gate = nn.Linear(model.width, hidden, bias=model.bias) if model.activation == "swiglu" else None
        self.up = nn.Linear(model.width, hidden, bias=model.bias)
        self.down = nn.Linear(hidden, model.width, bias=model.bias)
        self.dropout = nn.Dropout(model.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.norm(x))

    def inner(self, x: Tensor) -> Tensor:
        """The sublayer after its norm."""
        up = self.up(x)
        hidden = functional.gelu(up) if self.gate is None else functional.silu(self.gate(x)) * up
        return self.dropout(self.down(hidden))


def make_norm(model: Model) -> nn.Module:
    """The body's norm with its stated eps."""
    if model.norm == "layernorm":
        return nn.LayerNorm(model.width, eps=model.norm_eps, bias=model.bias)
    return nn.RMSNorm(model.width, eps=model.norm_eps)
