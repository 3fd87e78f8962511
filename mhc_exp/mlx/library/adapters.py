"""Where the residual additions of known MLX blocks are: what `inject` needs to know of an architecture.

Mirrors torch/library/adapters.py. A block is a module that repeats x = x + F(x) a few times. Each F begins at a
submodule that reads x alone (its norm) and ends at a submodule whose output is added to x. `Branch(begin, end)` names
both; the lines of the block's own code between and around them run as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import mlx.core as mx
from mlx import nn

from mhc_exp.mlx.library.modules import named_modules


class CannotInject(ValueError):
    """A model that cannot be split, and why."""


@dataclass(frozen=True)
class Branch:
    """One F of a block: the submodules where it begins and where it ends, dotted where they are inside of others."""

    begin: str
    end: str

    def present(self, block: nn.Module) -> bool:
        return submodule(block, self.begin) is not None and submodule(block, self.end) is not None


@dataclass(frozen=True)
class Adapter:
    """One kind of block. To adapt another architecture, write one and pass it as `inject(..., adapters=[yours])`."""

    blocks: tuple[str, ...]
    """Names of the classes; with their modules (`mlx_lm.models.llama.TransformerBlock`), as mlx_lm calls many classes
    the same.
    """
    branches: tuple[Branch, ...]
    """In the order in which they run."""
    state: str = "x"
    """Name of the first argument, for callers that pass it by name."""
    required: tuple[tuple[str, object], ...] = ()
    """Attributes and their values without which the block cannot be split (`use_parallel_residual`, False)."""

    def __post_init__(self):
        begins = [branch.begin for branch in self.branches]
        if not begins or len(set(begins)) < len(begins):
            raise ValueError(
                f"an adapter needs branches that begin at submodules of their own, got {begins}; a norm of two "
                "branches does not say which of them is meant"
            )

    def names(self, block: nn.Module) -> bool:
        """Whether this adapter is for such blocks."""
        kind = type(block)
        known = kind.__name__ in self.blocks or f"{kind.__module__}.{kind.__name__}" in self.blocks
        return known and all(branch.present(block) for branch in self.branches)

    def why_not(self, block: nn.Module) -> str | None:
        """What about this block cannot be split."""
        for name, value in self.required:
            if getattr(block, name, None) != value:
                return (
                    f"{type(block).__name__} with {name}={getattr(block, name, None)!r} is not x + F(norm(x)) "
                    f"in turns, so it has no branches to connect; build it with {name}={value!r}"
                )
        return why_not_called(type(block))


def why_not_called(kind: type) -> str | None:
    """Why the `__call__` of a class of blocks cannot be split: another one has been put in its place."""
    name = getattr(kind.__call__, "__qualname__", type(kind.__call__).__name__)
    if name.endswith(".__call__"):
        return None
    return (
        f"{kind.__name__}.__call__ has been replaced by {name}, which would take the streams for constants and lose "
        "their gradients; call inject(model) first, and grad_checkpoint(model.layers[0]) or the like afterwards"
    )


def _mlx_lm(*names: str) -> tuple[str, ...]:
    return tuple(f"mlx_lm.models.{name}" for name in names)


LLAMA_STYLE = _mlx_lm(
    *(f"{name}.TransformerBlock" for name in ("llama", "qwen2", "qwen3", "gemma", "phi3", "phi3small", "starcoder2")),
    *(
        f"{name}.TransformerBlock"
        for name in ("internlm3", "mimo", "nemotron", "seed_oss", "hunyuan_v1_dense", "bitnet")
    ),
    *("laguna.TransformerBlock", "Klear.KlearDecoderLayer", "glm.GLMBlock", "helium.HeliumDecoderLayer"),
    *("qwen2_moe.Qwen2MoeDecoderLayer", "qwen3_moe.Qwen3MoeDecoderLayer", "youtu_llm.YoutuLLMDecoderLayer"),
    *("deepseek.DeepseekDecoderLayer", "deepseek_v2.DeepseekV2DecoderLayer", "deepseek_v3.DeepseekV3DecoderLayer"),
    *("deepseek_v32.DeepseekV32DecoderLayer", "dots1.Dots1DecoderLayer", "ernie4_5.DecoderLayer"),
    *("ernie4_5_moe.Ernie4_5_DecoderLayer", "exaone_moe.DecoderLayer", "glm4_moe.DecoderLayer"),
    *("glm4_moe_lite.Glm4MoeLiteDecoderLayer", "mellum.MellumDecoderLayer", "mimo_v2_flash.DecoderLayer"),
)
"""Blocks of mlx_lm whose code is Llama's, line by line (tests/library compares them); Mistral is Llama there."""

ADAPTERS: tuple[Adapter, ...] = (
    Adapter(LLAMA_STYLE, (Branch("input_layernorm", "self_attn"), Branch("post_attention_layernorm", "mlp"))),
    Adapter(
        _mlx_lm("mixtral.MixtralDecoderLayer"),
        (Branch("input_layernorm", "self_attn"), Branch("post_attention_layernorm", "block_sparse_moe")),
    ),
    Adapter(
        _mlx_lm("gpt2.TransformerBlock", "gpt_bigcode.TransformerBlock"),
        (Branch("ln_1", "attn"), Branch("ln_2", "mlp")),
    ),
    Adapter(
        _mlx_lm("gpt_neox.TransformerBlock"),
        (Branch("input_layernorm", "attention"), Branch("post_attention_layernorm", "mlp")),
        required=(("use_parallel_residual", False),),
    ),
    Adapter(
        ("mlx.nn.layers.transformer.TransformerEncoderLayer",),
        (Branch("ln1", "dropout1"), Branch("ln2", "linear2")),
        required=(("norm_first", True),),
    ),
    Adapter(("Residual",), (Branch("branch", "branch"),)),
)
"""mlx_lm (Llama-style, Mixtral, GPT-2, GPT-NeoX), MLX's own layer, ours."""


class Residual(nn.Module):
    """x + F(x): what `inject` understands in a plain nn.Sequential; F maps [*, C] to [*, C], images too."""

    def __init__(self, branch: nn.Module):
        super().__init__()
        self.branch = branch

    def __call__(self, x, *args, **kwargs):
        return x + self.branch(x, *args, **kwargs)


def adapter_of(block: nn.Module, adapters: Iterable[Adapter]) -> Adapter | None:
    """The first adapter for such blocks."""
    return next((one for one in adapters if one.names(block)), None)


def width_of(block: nn.Module, adapter: Adapter) -> int | None:
    """C, from the weight of the norm or layer where the first branch begins; None if none tells it."""
    begin = submodule(block, adapter.branches[0].begin)
    for _, module in named_modules(begin) if begin is not None else ():
        weight = module.get("weight")
        if weight is not None and mx.issubdtype(weight.dtype, mx.floating):
            return weight.shape[-1]
    return None


def submodule(block: nn.Module, name: str) -> nn.Module | None:
    """The part of a block under a dotted name."""
    found: object = block
    for part in name.split("."):
        found = found.get(part) if isinstance(found, nn.Module) else None
    return found if isinstance(found, nn.Module) else None
