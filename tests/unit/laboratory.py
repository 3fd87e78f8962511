"""A run directory with a tiny exact trainer, started, stopped and started again: what the tests of the loop share."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from bigram import BigramTrainer, CountingTask

from mhc_exp.config.schema import Config
from mhc_exp.runs.directory import RunDirectory
from mhc_exp.training.loop import Outcome, train
from mhc_exp.training.signals import StopRequest

STEPS = 23


def configured(config: Config, root: Path, **changes: Any) -> Config:
    intervals = {"log_every": 3, "eval_every": 4, "metrics_every": 5, "checkpoint_every": 7}
    training = replace(config.training, **({"steps": STEPS, "eval_batches": 2, **intervals} | changes))
    return replace(config, runs_root=str(root), training=training)


class Recorder:
    """Stands where the sinks are."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.layers: list[dict[str, Any]] = []
        self.opened: list[tuple[int, int]] = []

    def open(self, run: RunDirectory, total_steps: int, resumed_at: int) -> None:
        self.opened.append((total_steps, resumed_at))

    def log(self, row: dict[str, Any]) -> None:
        json.dumps(row, allow_nan=False)  # raises on a bare NaN
        self.rows.append(row)

    def log_layers(self, row: dict[str, Any]) -> None:
        json.dumps(row, allow_nan=False)
        self.layers.append(row)


class Laboratory:
    """One run directory, and everything needed to start or go on training in it."""

    def __init__(
        self, config: Config, task: CountingTask | None = None, streams: bool = True, asynchronous: bool = False
    ) -> None:
        self.config, self.task, self.streams = config, task or CountingTask(), streams
        self.asynchronous = asynchronous
        self.run = RunDirectory.create(config, sweep=None, command=["test"])
        self.sinks = Recorder()
        self.trainer = BigramTrainer(config, streams, asynchronous)
        self.stop = StopRequest()

    def train(self) -> Outcome:
        return train(self.config, self.task, self.trainer, self.run, self.sinks, self.stop)  # type: ignore[arg-type]

    def again(self) -> None:
        """A new process: nothing survives but the directory, the rows, and what step poisons the data."""
        poison = self.trainer.poison
        self.run = RunDirectory.open(self.run.path)
        self.trainer, self.stop = BigramTrainer(self.config, self.streams, self.asynchronous), StopRequest()
        self.trainer.poison = poison

    def rows(self) -> dict[int, dict[str, Any]]:
        """Last row of every step without what a clock measured."""
        timeless = {"seconds", "perf/step_seconds", "perf/tokens_per_second"}
        return {row["step"]: {k: v for k, v in row.items() if k not in timeless} for row in self.sinks.rows}

    def arrays(self) -> dict[str, np.ndarray]:
        state = self.trainer.state()
        return {**state.model, **state.optimizer}

    def saved(self) -> list[int]:
        return self.run.checkpoints.steps()


def assert_equal_arrays(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].tobytes() == other[name].tobytes(), name


def crash() -> None:
    """For `before_step`: the process dies there."""
    raise RuntimeError("power cut")
