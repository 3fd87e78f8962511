"""`mhc-exp plan --check`: predicted against measured steps on this CPU, with PyTorch, interleaved in one process."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence

from mhc_exp.config.checks import accept
from mhc_exp.config.compose import compose_mapping
from mhc_exp.config.schema import Config
from mhc_exp.data import make_task
from mhc_exp.planning.roofline import predict

SHAPES = {
    64: ["depth=12", "model.width=64", "model.seq_len=64"],
    256: ["depth=4", "model.width=256", "model.seq_len=128"],
}
ARMS = {
    "baseline": ("plain", False, ["variant=baseline"]),
    "mhc native": ("fused", False, ["variant=mhc"]),
    "mhc native, recomputing": ("fused", True, ["variant=mhc", "training.recompute=block"]),
    "mhc eager": ("eager", False, ["variant=mhc", "backend.kernels=eager"]),
}
"""How the connections are computed, whether blocks are computed again, and what is typed for it."""
COMMON = ["backend=cpu", "backend.threads=1", "tracking=local", "dataset=increment", "dataset.vocab_size=256"]
ROUNDS, WARM_UP = 7, 2


def table(overrides: Sequence[str]) -> str:
    """One line per width and arm. `overrides` come last, for other shapes. Raises ConfigError."""
    columns = "| width | wiring | predicted ms | measured ms | error | predicted ratio | measured ratio | error |"
    lines = [
        f"one thread, {ROUNDS} rounds, medians of CPU time; load before {os.getloadavg()[0]:.2f}",
        "",
        columns,
        f"|{'---|' * 8}",
    ]
    for width, shape in SHAPES.items():
        configs = {name: _config([*COMMON, *shape, *arm[2], *overrides]) for name, arm in ARMS.items()}
        lines += _lines(width, configs)
    return "\n".join([*lines, "", f"load after {os.getloadavg()[0]:.2f}; the ratio is to the baseline's step"])


def _config(overrides: Sequence[str]) -> Config:
    return accept(compose_mapping(overrides)[0])


def _lines(width: int, configs: dict[str, Config]) -> list[str]:
    from mhc_exp.torch.roofs import measured

    machine = measured(configs["mhc native"])
    found = {name: predict(config, 256, machine, *ARMS[name][:2]).step for name, config in configs.items()}
    times = _measured(configs)
    seen = {name: statistics.median(own) for name, own in times.items()}
    ratios = {name: _ratio(own, times["baseline"]) for name, own in times.items()}
    lines = []
    for name in configs:
        ratio = found[name] / found["baseline"]
        cells = (f"{1e3 * found[name]:.1f}", f"{1e3 * seen[name]:.1f}", f"{found[name] / seen[name] - 1:+.0%}")
        relative = (f"{ratio:.2f}", f"{ratios[name]:.2f}", f"{ratio / ratios[name] - 1:+.0%}")
        lines.append(f"| {' | '.join((str(width), name, *cells, *relative))} |")
    return lines


def _ratio(own: list[float], base: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(own, base, strict=True))


def _measured(configs: dict[str, Config]) -> dict[str, list[float]]:
    """CPU seconds of steps of each configuration, in turn: one thread, and others may share the machine."""
    from mhc_exp.torch.trainer import TorchTrainer

    task = make_task(configs["baseline"])
    trainers = {name: TorchTrainer(config, task.vocab_size) for name, config in configs.items()}
    batch = task.batch(0, configs["baseline"].training.batch_size)
    seconds: dict[str, list[float]] = {name: [] for name in configs}
    for step in range(1, WARM_UP + ROUNDS + 1):
        for name, trainer in trainers.items():
            begun = time.process_time()
            trainer.step(step, batch, 1e-3)
            trainer.fetch()
            seconds[name].append(time.process_time() - begun)
    return {name: times[WARM_UP:] for name, times in seconds.items()}
