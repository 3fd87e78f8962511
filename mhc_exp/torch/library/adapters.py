"""Where the residual additions of known blocks are: what `inject` needs to know of an architecture.

A block is a module whose forward pass repeats x = x + F(x) a few times. Each F begins at a submodule that reads x alone
(its norm) and ends at a submodule whose output is added to x. `Branch(begin, end)` names both; the lines of the block's
own forward pass between and around them run as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn


class CannotInject(ValueError):
    """A model that cannot be split, and why."""


@dataclass(frozen=True)
class Branch:
    """One F of a block: the submodules where it begins and where it ends."""

    begin: str
    end: str | tuple[str, ...]
    """Of several names the first that the block has (and is not None)."""
    optional: bool = False
    """Whether a block may lack it (cross attention)."""

    def end_of(self, block: nn.Module) -> str | None:
        names = (self.end,) if isinstance(self.end, str) else self.end
        return next((name for name in names if _has(block, name)), None)

    def present(self, block: nn.Module) -> bool:
        return _has(block, self.begin) and self.end_of(block) is not None


@dataclass(frozen=True)
class Adapter:
    """One kind of block. To adapt another architecture, write one and pass it as `inject(..., adapters=[yours])`."""

    blocks: tuple[str, ...]
    """Names of the classes."""
    branches: tuple[Branch, ...]
    """In the order in which they run."""
    state: str = "hidden_states"
    """Name of the forward pass's first argument, for callers that pass it by name."""
    after: str | None = None
    """A submodule that acts on the sum, element by element (the ReLU of a ResNet); it then acts on every stream."""
    without: tuple[str, ...] = ()
    """Submodules that a block may not have; one that has them (a downsampling shortcut) stays as it is."""
    required: tuple[tuple[str, object], ...] = ()
    """Attributes and their values without which the block cannot be split (`norm_first`, True)."""
    channel_dim: int = -1
    """The axis of the width: -1, or 1 for images [B, C, H, W]."""

    def __post_init__(self):
        begins = [branch.begin for branch in self.branches]
        if not begins or len(set(begins)) < len(begins):
            raise ValueError(
                f"an adapter needs branches that begin at submodules of their own, got {begins}; a norm of two "
                "branches does not say which of them is meant"
            )

    def names(self, block: nn.Module) -> bool:
        """Whether this adapter is for such blocks."""
        needed = [branch for branch in self.branches if not branch.optional]
        after = self.after is None or _has(block, self.after)
        return type(block).__name__ in self.blocks and after and all(branch.present(block) for branch in needed)

    def straight(self, block: nn.Module) -> bool:
        """Whether the block keeps the shape of its state."""
        return not any(_has(block, name) for name in self.without)

    def why_not(self, block: nn.Module) -> str | None:
        """What about this block cannot be split."""
        for name, value in self.required:
            if getattr(block, name, None) != value:
                return (
                    f"{type(block).__name__} with {name}={getattr(block, name, None)!r} adds before it norms, so no "
                    f"module sees the state alone; build it with {name}={value!r}"
                )
        return None


LLAMA_STYLE = tuple(
    f"{name}DecoderLayer"
    for name in (
        *("Llama", "Mistral", "Ministral", "Ministral3", "Mixtral", "Gemma", "Glm", "Glm4Moe", "Starcoder2", "SmolLM3"),
        *("Qwen2", "Qwen2Moe", "Qwen2VL", "Qwen2_5_VL", "Qwen3", "Qwen3Moe", "Qwen3VLText", "SeedOss", "NanoChat"),
        *("DeepseekV2", "DeepseekV3", "Olmo", "Olmoe", "Ernie4_5", "Ernie4_5_Moe", "HunYuanDenseV1", "Helium", "Arcee"),
    )
)
"""Decoder layers of transformers whose forward pass is Llama's, line by line (tests/library compares them)."""

ADAPTERS: tuple[Adapter, ...] = (
    Adapter(
        ("GPT2Block",),
        (Branch("ln_1", "attn"), Branch("ln_cross_attn", "crossattention", optional=True), Branch("ln_2", "mlp")),
    ),
    Adapter(LLAMA_STYLE, (Branch("input_layernorm", "self_attn"), Branch("post_attention_layernorm", "mlp"))),
    Adapter(("ViTLayer",), (Branch("layernorm_before", "dropout"), Branch("layernorm_after", "dropout"))),
    Adapter(("Block",), (Branch("norm1", "drop_path1"), Branch("norm2", "drop_path2")), state="x"),
    Adapter(
        ("BasicBlock",),
        (Branch("conv1", ("drop_path", "se", "bn2")),),
        *("x", "act2", ("downsample",)),
        channel_dim=1,
    ),
    Adapter(
        ("Bottleneck",),
        (Branch("conv1", ("drop_path", "se", "bn3")),),
        *("x", "act3", ("downsample",)),
        channel_dim=1,
    ),
    Adapter(("BasicBlock",), (Branch("conv1", "bn2"),), "x", "relu", ("downsample",), channel_dim=1),
    Adapter(("Bottleneck",), (Branch("conv1", "bn3"),), "x", "relu", ("downsample",), channel_dim=1),
    Adapter(
        ("TransformerEncoderLayer",),
        (Branch("norm1", "dropout1"), Branch("norm2", "dropout2")),
        state="src",
        required=(("norm_first", True),),
    ),
    Adapter(
        ("TransformerDecoderLayer",),
        (Branch("norm1", "dropout1"), Branch("norm2", "dropout2"), Branch("norm3", "dropout3")),
        state="tgt",
        required=(("norm_first", True),),
    ),
    Adapter(("Residual",), (Branch("branch", "branch"),), state="x"),
    Adapter(("Residual2d",), (Branch("branch", "branch"),), state="x", channel_dim=1),
)
"""transformers (GPT-2, Llama-style, ViT), timm (ViT, ResNet), torchvision's ResNet, PyTorch's own layers, ours."""


class Residual(nn.Module):
    """x + F(x): what `inject` understands in a plain nn.Sequential; F maps [*, C] to [*, C]."""

    def __init__(self, branch: nn.Module):
        super().__init__()
        self.branch = branch

    def forward(self, x, *args, **kwargs):
        return x + self.branch(x, *args, **kwargs)


class Residual2d(Residual):
    """The same for images [B, C, H, W]."""


def adapter_of(block: nn.Module, adapters: Iterable[Adapter]) -> Adapter | None:
    """The first adapter for such blocks."""
    return next((one for one in adapters if one.names(block)), None)


def width_of(block: nn.Module, adapter: Adapter) -> int | None:
    """C, from the weight of the norm or convolution where the first branch begins; None if there is none."""
    for module in block.get_submodule(adapter.branches[0].begin).modules():
        weight = getattr(module, "weight", None)
        if weight is not None:
            return weight.shape[0] if weight.dim() == 1 else weight.shape[1]
    return None


def _has(block: nn.Module, name: str) -> bool:
    try:
        found = block
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError:
        return False
    return isinstance(found, nn.Module)
