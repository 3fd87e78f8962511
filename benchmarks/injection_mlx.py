"""What a model of MLX costs before and after `inject`: parameters, the peak of memory, time of a step.

    python benchmarks/injection_mlx.py      # about a minute; mlx_lm's Llama too where mlx-lm is installed

Times are the fastest of rounds in turns: on a CPU the processor time of all threads, which other processes disturb
less; on a GPU the time that passed. Memory is that of MLX's allocator above what is held before the step (parameters),
the smallest of the rounds.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from mhc_exp.mlx import inject

ROUNDS = 5
VARIANTS = ("identity_hc", "mhc", "hc")
Made = tuple[nn.Module, mx.array]


class Encoder(nn.Module):
    """MLX's own layers, 4 of width 128."""

    def __init__(self):
        super().__init__()
        self.inner = nn.TransformerEncoder(4, 128, 4, 512)

    def __call__(self, x: mx.array) -> mx.array:
        return self.inner(x, nn.MultiHeadAttention.create_additive_causal_mask(x.shape[1]))


def encoder() -> Made:
    return Encoder(), mx.random.normal((4, 64, 128))


def llama() -> Made:
    package = importlib.import_module("mlx_lm.models.llama")
    sizes = {"hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 4, "num_attention_heads": 4}
    model = package.Model(package.ModelArgs("llama", **sizes, rms_norm_eps=1e-6, vocab_size=512))
    return model, mx.random.randint(0, 512, (4, 64))


MODELS: dict[str, Callable[[], Made]] = {"TransformerEncoder, 4 x 128": encoder}
if importlib.util.find_spec("mlx_lm"):
    MODELS |= {"mlx_lm Llama, 4 x 128": llama}


def step(model: nn.Module, x: mx.array) -> tuple[float, int]:
    """Seconds and peak bytes of a forward and backward pass."""
    mx.eval(model.parameters())
    gradients = nn.value_and_grad(model, lambda x: mx.square(model(x)).mean())
    held = mx.get_active_memory()
    mx.reset_peak_memory()
    clock = time.process_time if mx.default_device().type == mx.DeviceType.cpu else time.perf_counter
    start = clock()
    mx.eval(gradients(x))
    return clock() - start, mx.get_peak_memory() - held


def main() -> None:
    print("| model | streams | parameters | peak of a step (MB) | forward and backward (ms) |\n" + "|---" * 5 + "|")
    for name, build in MODELS.items():
        plain, x = build()
        arms = {"none": plain, **{variant: inject(build()[0], variant) for variant in VARIANTS}}
        found: dict[str, list[tuple[float, int]]] = {arm: [] for arm in arms}
        for _ in range(ROUNDS):
            for arm, model in arms.items():
                found[arm].append(step(model, x))
        for arm, model in arms.items():
            parameters = sum(value.size for _, value in tree_flatten(model.parameters()))
            seconds, peaks = zip(*found[arm], strict=True)
            print(f"| {name} | {arm} | {parameters:,} | {min(peaks) / 1e6:.1f} | {1e3 * min(seconds):.0f} |")


if __name__ == "__main__":
    main()
