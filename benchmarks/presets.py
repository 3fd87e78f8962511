"""What each initial-value preset of mHC does before and shortly after training starts; prints a Markdown table.

    python benchmarks/presets.py            # about four minutes on one core
    python benchmarks/presets.py zero_mix   # only these lines

The body is eight blocks of width 64 on real text (dataset=source_code), three seeds, 100 updates.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from mhc_exp.config.compose import compose
from mhc_exp.config.variant_rules import INIT_NEEDS
from mhc_exp.data import make_task
from mhc_exp.data.task import Batch
from mhc_exp.topology.diagnosis import summarise
from mhc_exp.topology.families import equals_prenorm_at_step_0
from mhc_exp.topology.init import PRESETS
from mhc_exp.torch.trainer import TorchTrainer
from mhc_exp.training.schedule import learning_rate

STEPS, SEEDS, CHECKPOINTS = 100, 3, (0, 100)
MHC_PRESETS = [
    name for name in PRESETS if "sinkhorn" in INIT_NEEDS[name].charts and "sigmoid" in INIT_NEEDS[name].gates
]


def measure(preset: str, seed: int) -> dict[str, float]:
    """Numbers of one run of `variant=mhc variant.init=preset`."""
    fixed = ["depth=8", "backend=cpu", "backend.threads=1", f"training.steps={STEPS}", f"seed={seed}"]
    config = compose([*fixed, "variant=mhc", f"variant.init={preset}"])
    prenorm = compose([*fixed, "variant=baseline"])
    task = make_task(config)
    held_out = task.validation(4, 16)
    probe = Batch(*(array[:4] for array in held_out[0]))
    trainer = TorchTrainer(config, task.vocab_size)
    start = trainer.evaluate(held_out).loss - TorchTrainer(prenorm, task.vocab_size).evaluate(held_out).loss
    numbers = {"off pre-norm": abs(start), "claims": float(equals_prenorm_at_step_0(config.variant))}
    for step in range(STEPS + 1):
        if step in CHECKPOINTS:
            diagnosis = trainer.diagnose(probe)
            assert diagnosis is not None
            columns = summarise(diagnosis)
            numbers[f"1 - cosine, {step}"] = 1 - columns["streams/cosine"]
            numbers[f"diagonal, {step}"] = float(np.diagonal(diagnosis.mix, axis1=-2, axis2=-1).mean())
        if step < STEPS:
            batch = task.batch(step, config.training.batch_size)
            trainer.step(step + 1, batch, learning_rate(config.optimizer, step + 1, STEPS))
    last = trainer.fetch()[-1]
    assert last.mix_grad_norm is not None
    numbers["mixing gradient"] = last.mix_grad_norm / last.grad_norm
    numbers["loss"] = trainer.evaluate(held_out).loss
    return numbers


COLUMNS = [
    "preset",
    "equals pre-norm at step 0",
    "off by (nats)",
    "H_res diagonal, start",
    "1 - cosine of streams, start",
    f"after {STEPS}",
    "share of the gradient in H_res",
    "held-out loss",
]


def main() -> None:
    """Print the table, means over the seeds, and the standard error of the loss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", nargs="*", help="lines of the table (default: all)")
    presets = parser.parse_args().preset or MHC_PRESETS
    if unknown := set(presets) - {*MHC_PRESETS}:
        parser.error(f"{', '.join(sorted(unknown))}: not for mhc; its presets: {', '.join(MHC_PRESETS)}")
    print(f"`{' '.join(['python', *sys.argv])}`: depth 8, width 64, source_code, {STEPS} steps, {SEEDS} seeds\n")
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|", flush=True)
    for preset in presets:
        runs = [measure(preset, seed) for seed in range(SEEDS)]
        mean = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
        error = float(np.std([run["loss"] for run in runs], ddof=1) / np.sqrt(SEEDS))
        cells = [
            f"`{preset}`",
            "yes" if mean["claims"] else "no",
            f"{mean['off pre-norm']:.1e}",
            f"{mean['diagonal, 0']:.4f}",
            f"{max(mean['1 - cosine, 0'], 0):.1e}",
            f"{mean[f'1 - cosine, {STEPS}']:.1e}",
            f"{mean['mixing gradient']:.1e}",
            f"{mean['loss']:.4f} ± {error:.4f}",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
