"""How many updates a budget in steps, tokens or FLOPs pays for."""

from __future__ import annotations

import math

from mhc_exp.config.build import ConfigError, Problem
from mhc_exp.config.schema import Config


def total_steps(config: Config, flops_per_token: float, tokens_per_step: int) -> int:
    """Whole updates within the budget (rounded down, so that no run overspends).

    `flops_per_token` counts forward and backward; `tokens_per_step` is every position of a batch, supervised or not.
    Raises ConfigError if there is not exactly one budget or it does not pay for one update.
    """
    training = config.training
    budgets = {"steps": training.steps, "tokens": training.tokens, "flops": training.flops}
    given = [name for name, value in budgets.items() if value is not None]
    if len(given) != 1:
        said = " and ".join(f"training.{name}" for name in given) if given else "none"
        message = f"set exactly one of steps, tokens, flops, got {said}; type training.steps=240 training.tokens=null"
        raise ConfigError([Problem("training", message)])
    if training.steps is not None:
        return training.steps
    name, amount, price = (
        ("tokens", float(training.tokens), float(tokens_per_step))
        if training.tokens is not None
        else ("flops", float(training.flops or 0.0), flops_per_token * tokens_per_step)
    )
    # A budget computed as steps * price must give those steps back, hence the tolerance for one rounded division.
    steps = math.floor(amount / price * (1.0 + 1e-12))
    if steps < 1:
        least = f"{math.ceil(price)}" if name == "tokens" else _rounded_up(price)
        message = (
            f"{amount:g} is less than one step, which takes {least} {name} ({tokens_per_step} tokens a step); "
            f"type training.{name}={least} or more, or a smaller training.batch_size"
        )
        raise ConfigError([Problem(f"training.{name}", message)])
    return steps


def _rounded_up(value: float) -> str:
    """`value` to three digits, never below it: what the message tells people to type must be enough."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return f"{math.ceil(value / unit) * unit:.3g}"
