"""What a backend supplies to the loop: mathematics, never policy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from mhc_exp.data.task import Batch
from mhc_exp.topology.diagnosis import Diagnosis, HistoryDiagnosis


@dataclass(frozen=True)
class StepResult:
    """Numbers of one optimizer step, on the host."""

    step: int
    """1-based number of the update."""
    loss: float
    """Mean nats per supervised token, before the update."""
    grad_norm: float
    """Global L2 norm before clipping."""
    mix_grad_norm: float | None
    """L2 norm over the parameters of H_res alone; None if the wiring has none."""
    applied: bool
    """False if the update was suppressed because something was not finite."""


@dataclass(frozen=True)
class Evaluation:
    """Means over the supervised tokens of the held-out batches."""

    loss: float
    accuracy: float
    tokens: int


@dataclass
class State:
    """Everything a trainer needs to continue: float32 arrays by name, the same names on every backend."""

    model: dict[str, np.ndarray]
    optimizer: dict[str, np.ndarray] = field(default_factory=dict)
    """`exp_avg.<parameter>`, `exp_avg_sq.<parameter>` and the scalars `step` and `stopped`."""


class Trainer(Protocol):
    """One model with its optimizer on one device."""

    connection_parameters: int
    body_parameters: int
    kernels: str
    """For people: which tier computes the connections, and what of them (`native: read, write, coefficients`)."""
    recompute: str
    """For people: whether activations are computed again for the backward pass, and how much memory that saves."""
    asynchronous: bool
    """Whether the device still works on a step when `step` returns; then a row is fetched while the next one runs."""

    @property
    def device(self) -> str:
        """For people: `cpu (2 threads, AVX512)`, `NVIDIA H100 80GB`, `mlx cpu`."""
        ...

    def step(self, step: int, batch: Batch, lr: float) -> None:
        """Enqueue update number `step` (1-based) without waiting for the device."""
        ...

    def fetch(self, until: int | None = None) -> list[StepResult]:
        """Wait for step `until` (null: the last one) and return the results of it and of all steps before it since the
        last call, oldest first.
        """
        ...

    def gradients(self, batch: Batch) -> dict[str, np.ndarray]:
        """Gradient of the mean loss on `batch` by parameter name, without an update."""
        ...

    def evaluate(self, batches: list[Batch]) -> Evaluation: ...

    def diagnose(self, batch: Batch) -> Diagnosis | HistoryDiagnosis | None:
        """Coefficients, stream statistics and gradients of the connections on `batch`; None for a wiring that keeps one
        state and no earlier outputs.
        """
        ...

    def generate(self, prompt: np.ndarray, count: int, seed: int) -> np.ndarray:
        """`count` tokens sampled after `prompt` [T]."""
        ...

    def state(self) -> State: ...

    def load(self, state: State) -> None: ...

    def peak_memory(self) -> int | None:
        """Largest number of bytes in use so far, where the backend can tell."""
        ...
