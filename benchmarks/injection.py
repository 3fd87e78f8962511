"""What a model costs before and after `inject`, and whether it learns: five models, 200 steps of training each.

    python benchmarks/injection.py          # minutes; models of transformers too where that is installed

One batch is learned by heart with AdamW. The arms of a model take their steps in turns, so that a busy machine slows
all alike; the time of a step is the median. Bytes kept for the backward pass are counted, not sampled. "difference" is
that of the outputs before the first step from those of the model without connections, relative to the largest.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mhc_exp.torch import connections, inject, parameter_groups, preserves
from mhc_exp.torch.memory import saved_bytes

VARIANTS = ("identity_hc", "mhc", "hc", "frac")
WIDTH, BLOCKS, VOCABULARY, CLASSES = 128, 4, 512, 10
TOLERANCE = 1e-5
"""Largest difference at step 0 of a variant that promises none."""


class Encoder(nn.Module):
    """PyTorch's own pre-norm layers and a head, on vectors."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, 0.0, batch_first=True, norm_first=True)
        self.inner = nn.TransformerEncoder(layer, BLOCKS, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x).mean(1))


class BasicBlock(nn.Module):
    """As torchvision writes it: a branch of two convolutions, the sum, a ReLU."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.bn1, self.bn2, self.relu = nn.BatchNorm2d(width), nn.BatchNorm2d(width), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(out + x)


class ResNet(nn.Module):
    """A small one on images of 16 x 16."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(*(BasicBlock(width) for _ in range(BLOCKS)))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def theirs(name: str, config: str, **sizes: object) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        package = importlib.import_module("transformers")
        return getattr(package, name)(getattr(package, config)(**sizes))

    return build


def tokens() -> tuple[Tensor, Tensor]:
    x = torch.randint(VOCABULARY, (2, 33))
    return x[:, :-1], x[:, 1:].flatten()


def vectors() -> tuple[Tensor, Tensor]:
    return torch.randn(8, 16, WIDTH), torch.randint(CLASSES, (8,))


def images() -> tuple[Tensor, Tensor]:
    return torch.randn(8, 3, 16, 16), torch.randint(CLASSES, (8,))


LLAMA = {"hidden_size": WIDTH, "intermediate_size": 344, "num_hidden_layers": BLOCKS, "num_attention_heads": 4}
GPT2 = {"n_embd": WIDTH, "n_layer": BLOCKS, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0}
GPT2 |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
VIT = {**LLAMA, "intermediate_size": 4 * WIDTH, "image_size": 16, "patch_size": 4, "num_labels": CLASSES}
Batch = Callable[[], tuple[Tensor, Tensor]]
MODELS: dict[str, tuple[Callable[[], nn.Module], Batch]] = {
    "TransformerEncoder": (Encoder, vectors),
    "ResNet": (ResNet, images),
}
if importlib.util.find_spec("transformers"):
    MODELS |= {
        "GPT-2": (theirs("GPT2LMHeadModel", "GPT2Config", vocab_size=VOCABULARY, **GPT2), tokens),
        "Llama": (theirs("LlamaForCausalLM", "LlamaConfig", vocab_size=VOCABULARY, **LLAMA), tokens),
        "ViT": (theirs("ViTForImageClassification", "ViTConfig", **VIT), images),
    }


@dataclass
class Arm:
    """A model in training, and what was seen."""

    model: nn.Module
    x: Tensor
    target: Tensor
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        groups = parameter_groups(self.model, 1e-3, 0.1, connection_lr=1e-2) if connections(self.model) else None
        self.optimizer = torch.optim.AdamW(groups or self.model.parameters(), lr=1e-3, weight_decay=0.1)

    def scores(self) -> Tensor:
        output = self.model(self.x)
        return output if isinstance(output, Tensor) else output.logits

    def loss(self) -> Tensor:
        return cross_entropy(self.scores().flatten(0, -2), self.target)

    def step(self) -> None:
        start = time.perf_counter()
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        self.losses.append(float(loss.detach()))
        self.seconds.append(time.perf_counter() - start)

    def kept(self) -> int:
        return saved_bytes(self.loss, self.model.parameters())


def table(name: str, steps: int) -> None:
    build, batch = MODELS[name]
    torch.manual_seed(0)
    plain, (x, target) = build(), batch()
    arms = {"none": plain, **{variant: inject(copy.deepcopy(plain), variant) for variant in VARIANTS}}
    runs = {arm: Arm(model.train(), x, target) for arm, model in arms.items()}
    with torch.no_grad():
        before = runs["none"].scores()
        apart = {arm: float((run.scores() - before).abs().max() / before.abs().max()) for arm, run in runs.items()}
    for arm, model in arms.items():
        if preserves(model) and apart[arm] > TOLERANCE:
            raise SystemExit(f"{name} with {arm} is another function: {apart[arm]:.1e}; nothing was timed")
    for _ in range(steps):
        for run in runs.values():
            run.step()
    for arm, run in runs.items():
        parameters = sum(p.numel() for p in run.model.parameters())
        cells = [name, arm, f"{apart[arm]:.0e}" if arm != "none" else "", f"{parameters:,}", f"{run.kept() / 1e6:.1f}"]
        times = [f"{1e3 * statistics.median(run.seconds):.0f}"]
        times.append(f"{statistics.median(run.seconds) / statistics.median(runs['none'].seconds):.2f}")
        print("| " + " | ".join([*cells, *times, f"{run.losses[0]:.3f} to {run.losses[-1]:.3f}"]) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    heads = ("model", "streams", "difference", "parameters", "kept (MB)", "step (ms)", "ratio", f"loss, {steps} steps")
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for name in MODELS:
        table(name, steps)


if __name__ == "__main__":
    main()
