"""Step time of each wiring over the baseline's: same body, same batch, interleaved in one process; prints a table.

python benchmarks/step.py               # about a minute on one core
"""

from __future__ import annotations

import os
import statistics
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

from mhc_exp.config.compose import compose
from mhc_exp.data import make_task
from mhc_exp.torch.trainer import TorchTrainer

ROUNDS, WARM_UP = 9, 2
WIRINGS = {
    "baseline": ["variant=baseline"],
    "identity_hc": ["variant=identity_hc"],
    "mhc static": ["variant=mhc", "variant.coefficients=static"],
    "mhc": ["variant=mhc"],
    "deepseek_v4": ["variant=deepseek_v4"],
    "hc": ["variant=hc"],
}


def main() -> None:
    """Median, smallest and largest ratio over the rounds; the load says whether other processes were in the way."""
    print(f"depth 12, width 64, T = 64, B = 16, one thread, {ROUNDS} rounds; load before {os.getloadavg()[0]:.2f}\n")
    trainers = {}
    for name, overrides in WIRINGS.items():
        config = compose([*overrides, "depth=12", "backend=cpu", "backend.threads=1"])
        task = make_task(config)
        trainers[name] = TorchTrainer(config, task.vocab_size)
    batch = task.batch(0, 16)
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for number in range(1, ROUNDS + WARM_UP + 1):
        for name, trainer in trainers.items():
            start = time.perf_counter()
            trainer.step(number, batch, 1e-3)
            trainer.fetch()
            seconds[name].append(time.perf_counter() - start)
    print("| wiring | ms per step | ratio to baseline, median | min | max |\n|---|---|---|---|---|")
    for name, times in seconds.items():
        kept = times[WARM_UP:]
        ratios = [own / base for own, base in zip(kept, seconds["baseline"][WARM_UP:], strict=True)]
        print(
            f"| {name} | {1e3 * statistics.median(kept):.0f} | {statistics.median(ratios):.2f} "
            f"| {min(ratios):.2f} | {max(ratios):.2f} |"
        )


if __name__ == "__main__":
    main()
