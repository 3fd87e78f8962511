"""What to do when a loss or a gradient is not finite: the policy, told apart from the arithmetic.

The trainer decides on the device whether an update is applied (`training.nonfinite`); the loop only reads the results
at its next fetch, counts, and ends the run where the policy says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mhc_exp.training.trainer import StepResult

MAX_CONSECUTIVE_SKIPS = 50
"""Skipped updates in a row after which `skip_step` gives up: with unchanged weights only the batch and the learning
rate differ from one attempt to the next, so a longer stretch is a diverged run that spends its budget on nothing."""


@dataclass
class NonFiniteWatch:
    """Counts non-finite steps and says when a run has diverged."""

    policy: Literal["stop", "skip_step", "continue"]
    total: int = 0
    """Non-finite steps so far."""
    stretch: int = 0
    """Non-finite steps in a row up to now."""
    diverged_at: int | None = None
    """First step of the stretch that ended the run."""

    def observe(self, result: StepResult) -> bool:
        """Take note of one step; True if a stretch of non-finite steps begins with it."""
        if self.diverged_at is not None:
            return False  # whatever was enqueued behind the step of divergence was suppressed by the trainer
        if result.applied and math.isfinite(result.loss) and math.isfinite(result.grad_norm):
            self.stretch = 0
            return False
        self.total += 1
        self.stretch += 1
        if self.policy == "stop" or (self.policy == "skip_step" and self.stretch >= MAX_CONSECUTIVE_SKIPS):
            self.diverged_at = result.step - self.stretch + 1
        return self.stretch == 1
