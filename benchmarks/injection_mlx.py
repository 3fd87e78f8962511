"""What a model of MLX costs before and after `inject`, and whether it learns: 200 steps of training each.

    python benchmarks/injection_mlx.py      # minutes; mlx_lm's Llama too where mlx-lm is installed

One batch is learned by heart with AdamW. The arms of a model take their steps in turns; the time of a step is the
median: on a CPU the processor time of all threads, which other processes disturb less; on a GPU the time that passed.
Memory is that of MLX's allocator above what is held before the step (parameters and optimizer), the smallest of the
steps. "difference" is that of the outputs before the first step from those of the model without connections, relative
to the largest.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mhc_exp.mlx import connection_filter, inject, preserves  # isort: skip  # before mlx: it loads a fast BLAS
import mlx.core as mx
from mlx import nn, optimizers
from mlx.utils import tree_flatten

VARIANTS = ("identity_hc", "mhc", "hc", "frac")
WIDTH, BLOCKS, VOCABULARY = 128, 4, 512
TOLERANCE = 1e-5
"""Largest difference at step 0 of a variant that promises none."""


class Encoder(nn.Module):
    """MLX's own layers between an embedding and a head."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY)
        self.inner = nn.TransformerEncoder(BLOCKS, WIDTH, 4, 4 * WIDTH)

    def __call__(self, x: mx.array) -> mx.array:
        mask = nn.MultiHeadAttention.create_additive_causal_mask(x.shape[1])
        return self.head(self.inner(self.embedding(x), mask))


def llama() -> nn.Module:
    package = importlib.import_module("mlx_lm.models.llama")
    sizes = {"hidden_size": WIDTH, "intermediate_size": 344, "num_hidden_layers": BLOCKS, "num_attention_heads": 4}
    return package.Model(package.ModelArgs("llama", **sizes, rms_norm_eps=1e-6, vocab_size=VOCABULARY))


MODELS: dict[str, Callable[[], nn.Module]] = {"TransformerEncoder": Encoder}
if importlib.util.find_spec("mlx_lm"):
    MODELS |= {"mlx_lm Llama": llama}


@dataclass
class Arm:
    """A model in training, and what was seen."""

    model: nn.Module
    x: mx.array
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        slow, fast = optimizers.AdamW(1e-3, weight_decay=0.1), optimizers.AdamW(1e-2, weight_decay=0.0)
        injected = preserves(self.model)
        self.optimizer = optimizers.MultiOptimizer([fast, slow], [connection_filter(self.model)]) if injected else slow
        self.gradients = nn.value_and_grad(self.model, self._loss)
        mx.eval(self.model.parameters())

    def _loss(self) -> mx.array:
        return nn.losses.cross_entropy(self.model(self.x[:, :-1]), self.x[:, 1:], reduction="mean")

    def step(self) -> None:
        clock = time.process_time if mx.default_device().type == mx.DeviceType.cpu else time.perf_counter
        held = mx.get_active_memory()
        mx.reset_peak_memory()
        start = clock()
        loss, gradients = self.gradients()
        self.optimizer.update(self.model, gradients)
        mx.eval(loss, self.model.parameters(), self.optimizer.state)
        del gradients
        self.seconds.append(clock() - start)
        self.peaks.append(mx.get_peak_memory() - held)
        self.losses.append(loss.item())


def table(name: str, steps: int) -> None:
    build = MODELS[name]
    mx.random.seed(0)
    x = mx.random.randint(0, VOCABULARY, (2, 33))

    def made() -> nn.Module:
        mx.random.seed(1)
        return build()

    runs = {"none": Arm(made(), x), **{variant: Arm(inject(made(), variant), x) for variant in VARIANTS}}
    before = runs["none"].model(x)
    apart = {arm: (mx.abs(run.model(x) - before).max() / mx.abs(before).max()).item() for arm, run in runs.items()}
    for arm, run in runs.items():
        if preserves(run.model) and apart[arm] > TOLERANCE:
            raise SystemExit(f"{name} with {arm} is another function: {apart[arm]:.1e}; nothing was timed")
    for _ in range(steps):
        for run in runs.values():
            run.step()
    for arm, run in runs.items():
        parameters = sum(value.size for _, value in tree_flatten(run.model.parameters()))
        peak, middle = min(run.peaks) / 1e6, statistics.median(run.seconds)
        cells = [name, arm, f"{apart[arm]:.0e}" if arm != "none" else "", f"{parameters:,}", f"{peak:.1f}"]
        times = [f"{1e3 * middle:.0f}", f"{middle / statistics.median(runs['none'].seconds):.2f}"]
        print("| " + " | ".join([*cells, *times, f"{run.losses[0]:.3f} to {run.losses[-1]:.3f}"]) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    heads = ("model", "streams", "difference", "parameters", "peak (MB)", "step (ms)", "ratio", f"loss, {steps} steps")
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for name in MODELS:
        table(name, steps)


if __name__ == "__main__":
    main()
