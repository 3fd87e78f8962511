"""What a model costs before and after `inject`: parameters, bytes kept for the backward pass, time of a step.

    python benchmarks/injection.py          # about a minute; models of transformers too where that is installed

Times are the fastest of rounds in turns, so that a busy machine slows both alike; bytes are counted, not sampled.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mhc_exp.torch import connections, inject
from mhc_exp.torch.memory import saved_bytes

ROUNDS = 5
VARIANTS = ("identity_hc", "mhc", "hc")
Made = tuple[nn.Module, Tensor]


def encoder() -> Made:
    layer = nn.TransformerEncoderLayer(128, 4, 512, 0.0, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, 4, nn.LayerNorm(128), enable_nested_tensor=False), torch.randn(4, 64, 128)


def language(name: str, config: str, **sizes: int) -> Callable[[], Made]:
    def build() -> Made:
        package = importlib.import_module("transformers")
        return getattr(package, name)(getattr(package, config)(vocab_size=512, **sizes)), torch.randint(512, (4, 64))

    return build


LLAMA = {"hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 4, "num_attention_heads": 4}
MODELS: dict[str, Callable[[], Made]] = {"TransformerEncoder, 4 x 128": encoder}
if importlib.util.find_spec("transformers"):
    MODELS |= {
        "GPT-2, 4 x 128": language("GPT2Model", "GPT2Config", n_embd=128, n_layer=4, n_head=4),
        "Llama, 4 x 128": language("LlamaModel", "LlamaConfig", **LLAMA),
    }


def loss(model: nn.Module, x: Tensor) -> Tensor:
    output = model(x)
    return (output if isinstance(output, Tensor) else output.last_hidden_state).square().mean()


def seconds(model: nn.Module, x: Tensor) -> float:
    model.zero_grad()
    start = time.perf_counter()
    loss(model, x).backward()
    return time.perf_counter() - start


def main() -> None:
    print(
        "| model | streams | parameters | kept for backward (MB) | forward and backward (ms) | tier |\n"
        + "|---" * 6
        + "|"
    )
    for name, build in MODELS.items():
        torch.manual_seed(0)
        plain, x = build()
        arms = {"none": plain, **{variant: inject(copy.deepcopy(plain), variant) for variant in VARIANTS}}
        times = {arm: [] for arm in arms}
        for _ in range(ROUNDS):
            for arm, model in arms.items():
                times[arm].append(seconds(model, x))
        for arm, model in arms.items():
            own = connections(model)
            tier = own[0].tier(torch.zeros(1)).name if own else ""
            parameters = sum(p.numel() for p in model.parameters())
            kept = saved_bytes(lambda model=model, x=x: loss(model, x), model.parameters()) / 1e6
            print(f"| {name} | {arm} | {parameters:,} | {kept:.1f} | {1e3 * min(times[arm]):.0f} | {tier} |")


if __name__ == "__main__":
    main()
