"""Where the native tier's time goes in a training step: each kernel as the step calls it, and called again at once.

The second time its inputs are in the caches. What is missing to the whole overhead is Python, autograd, and everything
else in the step that finds its own data pushed out of the caches.

python benchmarks/kernel_times.py [depth=12 model.width=64 ...]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from typing import Any

from mhc_exp.allocator import keep_freed_memory
from mhc_exp.config.compose import compose
from mhc_exp.data import make_task
from mhc_exp.torch.kernels.native import CKernels
from mhc_exp.torch.trainer import TorchTrainer

KERNELS = ("predict", "sinkhorn", "write")
STEPS, ROUNDS = 4, 7


class Timed:
    """`kernels` with the time of every call; `again` calls each once more right after."""

    def __init__(self, kernels: CKernels):
        self.kernels, self.again = kernels, False
        self.first: dict[str, list[float]] = defaultdict(list)
        self.second: dict[str, list[float]] = defaultdict(list)

    def __getattr__(self, name: str) -> Any:
        kernel = getattr(self.kernels, name)

        def timed(*arguments: Any) -> Any:
            started = time.perf_counter()
            made = kernel(*arguments)
            self.first[name].append(time.perf_counter() - started)
            if self.again:
                started = time.perf_counter()
                kernel(*arguments)
                self.second[name].append(time.perf_counter() - started)
            return made

        return timed


def trainer(variant: str, words: list[str]) -> tuple[TorchTrainer, Any]:
    """A trainer on one thread and its first batch."""
    config = compose([f"variant={variant}", "backend=cpu", "backend.threads=1", *words])
    task = make_task(config)
    return TorchTrainer(config, task.vocab_size), task.batch(0, config.training.batch_size)


def steps(one: TorchTrainer, batch: Any) -> float:
    """Seconds of a step, the mean of STEPS."""
    started = time.perf_counter()
    for step in range(STEPS):
        one.step(step + 1, batch, 1e-3)
        one.fetch()
    return (time.perf_counter() - started) / STEPS


def main() -> None:
    """Print microseconds per sublayer."""
    keep_freed_memory()
    words = sys.argv[1:] or ["depth=12"]
    (baseline, batch), (mhc, _) = trainer("baseline", words), trainer("mhc", words)
    tier: Any = mhc.model.topology.kernels
    tier.kernels = timed = Timed(tier.kernels)
    steps(baseline, batch), steps(mhc, batch)
    timed.first.clear()
    pairs = [(steps(baseline, batch), steps(mhc, batch)) for _ in range(ROUNDS)]
    alone = {name: statistics.median(times) for name, times in timed.first.items()}
    timed.again = True
    steps(mhc, batch)

    sublayers = 2 * baseline.config.depth
    before, after = (statistics.median(part) / sublayers for part in zip(*pairs, strict=True))
    print(f"baseline, a sublayer {1e6 * before:.0f} us; mhc adds {1e6 * (after - before):.0f} us, of which in kernels:")
    for name in (f"{kernel}_{way}" for kernel in KERNELS for way in ("forward", "backward")):
        hot = statistics.median(timed.second[name])
        print(f"  {name:18s} {1e6 * alone[name]:6.0f} us; called again at once {1e6 * hot:6.0f} us")
    total, again = sum(alone.values()), sum(statistics.median(times) for times in timed.second.values())
    print(f"  {'together':18s} {1e6 * total:6.0f} us; called again at once {1e6 * again:6.0f} us")


if __name__ == "__main__":
    main()
