"""The transformer body in PyTorch. Mirrors mhc_exp/mlx/model.py; the specification is mhc_exp.body.reference.

Axes: B batch, T time, C width, H heads, D = C/H, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mhc_exp.body.parameters import hidden_width
from mhc_exp.body.reference import rotary_tables
from mhc_exp.config.schema import Config, Model, Streams
from mhc_exp.torch.topology import Observer, build


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
        self.whole_blocks = isinstance(config.variant, Streams) and config.variant.site == "block"
        self.norm = make_norm(model)
        self.head = None if model.tied_head else nn.Linear(model.width, vocab_size, bias=False)
        self.dropout = nn.Dropout(model.dropout)

    def forward(self, tokens: Tensor, observe: Observer | None = None) -> Tensor:
        """[B, T] int64 -> scores [B, T, V]."""
        x = self.embed(tokens)
        if self.positions is not None:
            x = x + self.positions.weight[: tokens.shape[1]]
        x = self.topology(self.dropout(x), self.sublayers(), observe)
        x = self.norm(x)
        return functional.linear(x, self.embed.weight if self.head is None else self.head.weight)

    def sublayers(self) -> list[Callable[[Tensor], Tensor]]:
        """What the wiring connects: attention and MLP of each block, or whole blocks with inner residuals."""
        if self.whole_blocks:
            return list(self.blocks)
        return [sublayer for block in self.blocks for sublayer in (block.attention, block.mlp)]


class Block(nn.Module):
    """Attention and MLP; called as a whole only by wirings that keep the inner residuals."""

    def __init__(self, model: Model):
        super().__init__()
        self.attention = Attention(model)
        self.mlp = MLP(model)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.mlp(x)


class Attention(nn.Module):
    """Causal multi-head attention of norm(x), no residual."""

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
        batch, time, width = x.shape
        qkv = self.qkv(self.norm(x)).view(batch, time, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
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
    """GELU or SwiGLU feed-forward of norm(x), no residual."""

    def __init__(self, model: Model):
        super().__init__()
        hidden = hidden_width(model)
        self.norm = make_norm(model)
        self.gate = nn.Linear(model.width, hidden, bias=model.bias) if model.activation == "swiglu" else None
        self.up = nn.Linear(model.width, hidden, bias=model.bias)
        self.down = nn.Linear(hidden, model.width, bias=model.bias)
        self.dropout = nn.Dropout(model.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        up = self.up(x)
        hidden = functional.gelu(up) if self.gate is None else functional.silu(self.gate(x)) * up
        return self.dropout(self.down(hidden))


def make_norm(model: Model) -> nn.Module:
    """The body's norm with its stated eps."""
    if model.norm == "layernorm":
        return nn.LayerNorm(model.width, eps=model.norm_eps, bias=model.bias)
    return nn.RMSNorm(model.width, eps=model.norm_eps)
