"""For tests of the loop: a trainer small enough to be exact (a bigram table with Adam in numpy), and its task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mhc_exp.config.schema import Config
from mhc_exp.data.task import Batch
from mhc_exp.topology.diagnosis import Diagnosis
from mhc_exp.training.trainer import Evaluation, State, StepResult

VOCABULARY = 8


class CountingTask:
    """Next token is this one plus one, or uniform with probability 0.2; batch(step) depends on (seed, step) alone."""

    name = "counting"
    vocab_size = VOCABULARY
    floor: float | None = 0.5
    chance = float(np.log(VOCABULARY))
    bytes_per_token: float | None = None

    def __init__(self, seed: int = 0, length: int = 4, text: bool = False) -> None:
        self.seed, self.length, self.text = seed, length, text

    def batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Batch:
        return self._draw([self.seed, 0, step], batch_size)

    def validation(self, count: int, batch_size: int) -> list[Batch]:
        return [self._draw([1, number], batch_size) for number in range(count)]

    def identity(self) -> dict[str, Any]:
        return {"name": self.name}

    def decode(self, tokens: np.ndarray) -> str | None:
        return "".join(chr(ord("a") + int(token)) for token in tokens) if self.text else None

    def _draw(self, seed: list[int], batch_size: int) -> Batch:
        draws = np.random.default_rng(seed)
        shape = (batch_size, self.length)
        inputs = draws.integers(0, VOCABULARY, shape)
        noise = draws.integers(0, VOCABULARY, shape)
        targets = np.where(draws.random(shape) < 0.2, noise, (inputs + 1) % VOCABULARY)
        return Batch(inputs.astype(np.int32), targets.astype(np.int32), np.ones(shape, bool))


class BigramTrainer:
    """A Trainer. `before_step[n]` runs inside update n; `poison[n]` is added to its loss and gradient."""

    device = "numpy"
    body_parameters = VOCABULARY * VOCABULARY
    connection_parameters = 0
    kernels = "eager"
    recompute = "none"

    def __init__(self, config: Config, streams: bool = False, asynchronous: bool = False) -> None:
        self.config, self.streams, self.asynchronous = config, streams, asynchronous
        self.table = np.zeros((VOCABULARY, VOCABULARY), np.float32)
        self.first, self.second = np.zeros_like(self.table), np.zeros_like(self.table)
        self.updates, self.stopped = 0, False
        self.pending: list[StepResult] = []
        self.history: list[StepResult] = []
        self.rates: list[float] = []
        self.fetches = 0
        self.poison: dict[int, float] = {}
        self.before_step: dict[int, Callable[[], Any]] = {}

    def step(self, step: int, batch: Batch, lr: float) -> None:
        self.before_step.get(step, lambda: None)()
        loss, gradient, _ = self._loss(batch)
        loss += self.poison.get(step, 0.0)
        gradient = gradient + np.float32(self.poison.get(step, 0.0))
        with np.errstate(invalid="ignore"):
            norm = float(np.sqrt((gradient.astype(np.float64) ** 2).sum()))
            bad = not (np.isfinite(loss) and np.isfinite(norm))
            policy = self.config.training.nonfinite
            self.stopped = self.stopped or (bad and policy == "stop")
            applied = policy == "continue" or not (bad or self.stopped)
            if applied:
                self._adam(gradient, lr)
        result = StepResult(step, loss, norm, norm / 2 if self.streams else None, applied)
        self.pending.append(result)
        self.history.append(result)
        self.rates.append(lr)

    def _loss(self, batch: Batch) -> tuple[float, np.ndarray, float]:
        scores = self.table[batch.inputs.ravel()].astype(np.float64)
        targets = batch.targets.ravel()
        probabilities = np.exp(scores - scores.max(1, keepdims=True))
        probabilities /= probabilities.sum(1, keepdims=True)
        rows = np.arange(len(targets))
        loss = float(-np.log(probabilities[rows, targets]).mean())
        accuracy = float((scores.argmax(1) == targets).mean())
        probabilities[rows, targets] -= 1.0
        gradient = np.zeros(self.table.shape)
        np.add.at(gradient, batch.inputs.ravel(), probabilities / len(targets))
        return loss, gradient.astype(np.float32), accuracy

    def _adam(self, gradient: np.ndarray, lr: float) -> None:
        self.updates += 1
        self.first = (0.9 * self.first + 0.1 * gradient).astype(np.float32)
        self.second = (0.95 * self.second + 0.05 * gradient**2).astype(np.float32)
        mean, square = self.first / (1 - 0.9**self.updates), self.second / (1 - 0.95**self.updates)
        self.table = (self.table - lr * mean / (np.sqrt(square) + 1e-8)).astype(np.float32)

    def fetch(self, until: int | None = None) -> list[StepResult]:
        self.fetches += 1
        ready = [result for result in self.pending if until is None or result.step <= until]
        self.pending = self.pending[len(ready) :]
        return ready

    def evaluate(self, batches: list[Batch]) -> Evaluation:
        with np.errstate(invalid="ignore"):
            measured = [self._loss(batch) for batch in batches]
        losses, accuracies = [loss for loss, _, _ in measured], [accuracy for _, _, accuracy in measured]
        tokens = sum(batch.inputs.size for batch in batches)
        return Evaluation(float(np.mean(losses)), float(np.mean(accuracies)), tokens)

    def diagnose(self, batch: Batch) -> Diagnosis | None:
        """Two connections of two streams whose mix drifts from the identity as training goes on."""
        if not self.streams:
            return None
        share = 0.5 * self.updates / (1 + self.updates)
        mix = np.array([[1 - share, share], [share, 1 - share]])[None, None].repeat(2, 0)
        gates, gram = np.full((2, 1, 2), 0.5), np.array([[1.0, 0.5], [0.5, 1.0]])[None, None].repeat(2, 0)
        return Diagnosis(mix, gates, gates, gram)

    def generate(self, prompt: np.ndarray, count: int, seed: int) -> np.ndarray:
        return (prompt[-1] + 1 + np.arange(count)) % VOCABULARY

    def state(self) -> State:
        scalars = {"step": np.float32(self.updates), "stopped": np.float32(self.stopped)}
        moments = {"exp_avg.table": self.first.copy(), "exp_avg_sq.table": self.second.copy()}
        return State({"table": self.table.copy()}, moments | {k: np.asarray(v) for k, v in scalars.items()})

    def load(self, state: State) -> None:
        self.table = state.model["table"].copy()
        self.first, self.second = (state.optimizer[f"{name}.table"].copy() for name in ("exp_avg", "exp_avg_sq"))
        self.updates, self.stopped = int(state.optimizer["step"]), bool(state.optimizer["stopped"])

    def peak_memory(self) -> int | None:
        return None
