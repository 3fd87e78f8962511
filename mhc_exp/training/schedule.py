"""Learning rate as a pure function of the update number: nothing to checkpoint, nothing to restore."""

from __future__ import annotations

import math

from mhc_exp.config.schema import Optimizer


def learning_rate(optimizer: Optimizer, step: int, total_steps: int) -> float:
    """Learning rate of update `step` (1..total_steps); the last update gets `final_lr * lr` (cosine and wsd).

    Warm-up and cool-down are shares of all updates, so a longer budget stretches the same curve. Where warm-up and
    decay overlap the lower of the two holds, which keeps the curve continuous. ValueError outside 1..total_steps.
    """
    if not 1 <= step <= total_steps:
        raise ValueError(f"update {step} is outside 1..{total_steps}")
    warmup = optimizer.warmup * total_steps
    rising = step / warmup if step < warmup else 1.0
    return optimizer.lr * min(rising, _decay(optimizer, step, total_steps, warmup))


def _decay(optimizer: Optimizer, step: int, total_steps: int, warmup: float) -> float:
    """Relative learning rate without the warm-up."""
    floor = optimizer.final_lr
    if optimizer.schedule == "cosine" and step > warmup:
        done = (step - warmup) / (total_steps - warmup)
        return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * done))
    if optimizer.schedule == "wsd":
        cooldown = optimizer.cooldown * total_steps
        start = total_steps - cooldown
        if step > start:
            return 1.0 - (1.0 - floor) * (step - start) / cooldown
    return 1.0
