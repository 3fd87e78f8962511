"""The loop, written once for every backend: what happens when, and what to do when something goes wrong.

One update is batch -> trainer.step; every so often fetch -> judge -> row -> checkpoint. Whether a step has a row, and
what is in it (times apart), depends on the step alone, so a resumed run writes the rows of an uninterrupted one.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mhc_exp import startup
from mhc_exp.body.flops import peak_flops, training_flops_per_token
from mhc_exp.config.schema import Config
from mhc_exp.data.task import Task
from mhc_exp.sinks import finite
from mhc_exp.topology.diagnosis import per_connection, summarise
from mhc_exp.training import evaluation
from mhc_exp.training.budget import total_steps
from mhc_exp.training.nonfinite import NonFiniteWatch
from mhc_exp.training.schedule import learning_rate
from mhc_exp.training.signals import StopRequest
from mhc_exp.training.trainer import State, StepResult, Trainer

if TYPE_CHECKING:
    from mhc_exp.runs.directory import RunDirectory
    from mhc_exp.sinks import Fanout

log = logging.getLogger(__name__)

Row = dict[str, float | int | str]

PROMPT_TOKENS = 64
"""Held-out tokens that the sample after a text run continues."""


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended."""

    state: Literal["done", "diverged", "interrupted"]
    step: int
    """Last update made; the first non-finite step if `state` is `diverged`."""
    score: float | None
    """Last finite `val/loss` of the run."""
    signal: int | None
    """Signal that asked to stop, also where the run was complete by then."""


class NotSaved(OSError):
    """The last checkpoint cannot be written; the text says what to do."""


def train(config: Config, task: Task, trainer: Trainer, run: RunDirectory, sinks: Fanout, stop: StopRequest) -> Outcome:
    """Train from the newest checkpoint of `run` (or from the start) to the end of the budget.

    Opens `sinks` and leaves closing them to the caller. Raises ConfigError if the budget is smaller than one step, and
    NotSaved if the last checkpoint cannot be written; any other checkpoint that fails is warned about and tried again
    at the next interval. After a text run a sample is left in `run.path / "sample.txt"`.
    """
    return _Session(config, task, trainer, run, sinks, stop).train()


@dataclass(frozen=True)
class _Progress:
    """What a checkpoint remembers beside the state of the trainer."""

    seconds: float = 0.0
    nonfinite_total: int = 0
    nonfinite_stretch: int = 0
    score: float | None = None


class _Clock:
    """Monotonic time of a run over all its resumptions, and the part of it spent on updates."""

    def __init__(self, seconds: float) -> None:
        self._started = time.monotonic() - seconds
        self._mark = self._busy = self._mean = 0.0
        self._steps = 0

    def seconds(self) -> float:
        return time.monotonic() - self._started

    def start(self) -> None:
        """Updates begin; evaluation, diagnosis and checkpoints happen while the clock is paused."""
        self._mark = time.monotonic()

    def pause(self, steps: int) -> None:
        self._busy += time.monotonic() - self._mark
        self._steps += steps

    def lap(self) -> float:
        """Mean seconds per update since the last lap; of the lap before, if that has counted all updates already."""
        if self._steps:
            self._mean = self._busy / self._steps
            self._busy, self._steps = 0.0, 0
        return self._mean


class _Session:
    """One call of `train`."""

    def __init__(
        self, config: Config, task: Task, trainer: Trainer, run: RunDirectory, sinks: Fanout, stop: StopRequest
    ) -> None:
        self.config, self.task, self.trainer = config, task, trainer
        self.run, self.sinks, self.stop = run, sinks, stop
        self.batch_size = config.training.batch_size
        self.tokens_per_step = int(task.batch(0, self.batch_size).inputs.size)
        self.flops_per_token = training_flops_per_token(config, task.vocab_size)
        self.peak_flops = peak_flops(trainer.device, config.backend.dtype)
        self.total = total_steps(config, self.flops_per_token, self.tokens_per_step)
        self.held_out = evaluation.held_out(config, task)
        self.diagnosis_batch = evaluation.diagnosis_batch(self.held_out)

        checkpoint = run.checkpoints.newest()
        progress = _Progress(**checkpoint.progress) if checkpoint else _Progress()
        if checkpoint:
            trainer.load(checkpoint.state)
        self.start = self.fetched = self.timed = self.saved = checkpoint.step if checkpoint else 0
        self.score = progress.score
        self.clock = _Clock(progress.seconds)
        self.watch = NonFiniteWatch(config.training.nonfinite, progress.nonfinite_total, progress.nonfinite_stretch)

    def train(self) -> Outcome:
        step = self.start
        self.run.add_facts(**self._facts())
        self.run.update_status(state="running", step=step, score=self.score)
        self.sinks.open(self.run, self.total, step)
        if step == 0:
            self._emit(self._first_row())
        self.clock.start()
        owed: int | None = None
        """A step whose row is written while the device works on the next one."""
        while step < self.total and self.stop.requested is None and self.watch.diverged_at is None:
            step += 1
            batch = self.task.batch(step - 1, self.batch_size)
            self.trainer.step(step, batch, learning_rate(self.config.optimizer, step, self.total))
            if owed is not None:
                self._settle(owed, step)
                self.clock.start()
                owed = None
                if self.watch.diverged_at is not None:
                    break
            saving = self._every("checkpoint_every", step)
            if saving or step == self.start + 1 or self._waits(step):
                self._settle(step, step)
                if saving:
                    self._save(step, required=step == self.total)
                self.clock.start()
            elif self._due(step):
                owed = step
        for last in () if self.watch.diverged_at is not None else (owed, step):
            if last is not None and self.fetched < last:  # a signal came between two rows
                self._settle(last, step)
        if self.saved < step:
            self._save(step, required=True)
        return self._finish(step)

    def _note_start(self) -> None:
        """How long the start took, of the first run of a process: the one that a person waited for."""
        if startup.reached("first step"):
            found = startup.phases()
            self.run.add_facts(startup=found, seconds_to_first_step=sum(seconds for seconds, _ in found.values()))

    def _every(self, key: str, step: int) -> bool:
        return step == self.total or step % getattr(self.config.training, key) == 0

    def _due(self, step: int) -> bool:
        """Whether `step` has a row."""
        return any(self._every(key, step) for key in ("log_every", "eval_every", "metrics_every"))

    def _waits(self, step: int) -> bool:
        """Whether the row of `step` needs the weights as they are after it, or the device has none to work ahead."""
        return self._due(step) and (
            not self.trainer.asynchronous or any(self._every(key, step) for key in ("eval_every", "metrics_every"))
        )

    def _settle(self, step: int, enqueued: int) -> None:
        """Wait for the device, judge every step since the last fetch, and write the row of `step` if it has one.

        `enqueued` is the last step that the device was given.
        """
        results = self.trainer.fetch(step)
        self.clock.pause(steps=enqueued - self.timed)
        self.fetched, self.timed = step, enqueued
        self._note_start()
        for result in results:
            begins = self.watch.observe(result)
            diverged = self.watch.diverged_at is not None
            if begins:
                log.warning(
                    "step %d is not finite: loss %g, gradient norm %g (training.nonfinite=%s)",
                    *(result.step, result.loss, result.grad_norm, self.watch.policy),
                )
            if diverged or (begins and not self._due(result.step)):
                self._emit({**self._head(result.step), **self._train_columns(result)})
            if diverged:
                return
        if not self._due(step):
            return
        row = {**self._head(step), **self._train_columns(results[-1]), **self._speed_columns()}
        evaluating = self._every("eval_every", step)
        row |= self._evaluate() if evaluating else {}
        row |= self._diagnose(step) if self._every("metrics_every", step) else {}
        self._emit(row)
        if evaluating:
            self.run.update_status(step=step, score=self.score)

    def _save(self, step: int, *, required: bool) -> None:
        """Checkpoint `step`, which must be settled; a diverged or poisoned state is never written."""
        if self.watch.diverged_at is not None:
            return
        state = self.trainer.state()
        poisoned = _nonfinite_arrays(state)
        if poisoned:
            log.warning("no checkpoint of step %d: %s not finite", step, ", ".join(poisoned[:3]))
            # `continue` goes on as the seed demo did, but an end with such weights is not called "done".
            if required or self.watch.policy != "continue":
                self.watch.diverged_at = step + 1 - max(1, self.watch.stretch)
            return
        progress = _Progress(self.clock.seconds(), self.watch.total, self.watch.stretch, self.score)
        try:
            self.run.checkpoints.save(step, state, asdict(progress))
        except OSError as error:
            if required:
                newest = f"the checkpoint of step {self.saved}" if self.saved else "the start"
                raise NotSaved(
                    f"the last checkpoint, of step {step}, cannot be written ({error}); make room or mend the disk, "
                    f"and the same command goes on from {newest}"
                ) from error
            retry = min(self.total, step + self.config.training.checkpoint_every)
            log.warning("checkpoint of step %d not written (%s); training goes on, next try at %d", step, error, retry)
            return
        self.saved = step
        self.run.update_status(step=step, score=self.score)

    def _finish(self, step: int) -> Outcome:
        if self.watch.diverged_at is not None:
            outcome = Outcome("diverged", self.watch.diverged_at, self.score, self.stop.requested)
            kept = f"the checkpoint of step {self.saved} is kept" if self.saved else "before the first checkpoint"
            log.warning("diverged at step %d; %s", outcome.step, kept)
        elif step < self.total:
            outcome = Outcome("interrupted", step, self.score, self.stop.requested)
        else:
            self._write_sample()
            outcome = Outcome("done", step, self.score, self.stop.requested)
        self.run.update_status(
            state=outcome.state, step=outcome.step, score=self.score, nonfinite_total=self.watch.total
        )
        return outcome

    # --- columns -----------------------------------------------------------------------------------------------

    def _head(self, step: int) -> Row:
        return {"step": step, "tokens": step * self.tokens_per_step, "seconds": self.clock.seconds()}

    def _train_columns(self, result: StepResult) -> Row:
        row: Row = {
            "train/loss": result.loss,
            "train/grad_norm": result.grad_norm,
            "train/lr": learning_rate(self.config.optimizer, result.step, self.total),
            "train/nonfinite_total": self.watch.total,
        }
        return row if result.mix_grad_norm is None else {**row, "mix/grad_norm": result.mix_grad_norm}

    def _speed_columns(self) -> Row:
        seconds = self.clock.lap()
        tokens_per_second = self.tokens_per_step / max(seconds, 1e-9)
        row: Row = {"perf/step_seconds": seconds, "perf/tokens_per_second": tokens_per_second}
        memory = self.trainer.peak_memory()
        if memory is not None:
            row["perf/peak_memory_bytes"] = memory
        if self.peak_flops is not None:
            row["perf/mfu"] = tokens_per_second * self.flops_per_token / self.peak_flops
        return row

    def _first_row(self) -> Row:
        """Of the initial weights: what is measured before the first update."""
        row: Row = {**self._head(0), "train/nonfinite_total": 0, **self._evaluate()}
        startup.reached("evaluation")
        row |= self._diagnose(0)
        startup.reached("diagnosis")
        return row

    def _evaluate(self) -> Row:
        measured = self.trainer.evaluate(self.held_out)
        if math.isfinite(measured.loss):
            self.score = measured.loss
        return {**evaluation.columns(measured, self.task)}

    def _diagnose(self, step: int) -> Row:
        """Gains and streams of the whole stack for the row of `step`; those of each connection go to layers.jsonl."""
        diagnosis = self.trainer.diagnose(self.diagnosis_batch)
        if diagnosis is None:
            return {}
        self.sinks.log_layers({"step": step, **per_connection(diagnosis)})
        return {**summarise(diagnosis)}

    def _emit(self, row: Row) -> None:
        """Send a row to the sinks. A number that is not finite is left out and named under `nonfinite`."""
        self.sinks.log(finite(row))

    # --- beside the rows ---------------------------------------------------------------------------------------

    def _facts(self) -> dict[str, Any]:
        """Constants of the run for run.json: readers of its rows need them."""
        return {
            "total_steps": self.total,
            "tokens_per_step": self.tokens_per_step,
            "floor": self.task.floor,
            "chance": self.task.chance,
        }

    def _write_sample(self) -> None:
        """Let a text model continue held-out text, for people to read."""
        count = self.config.training.sample_tokens
        inputs = self.held_out[0].inputs[0]
        prompt = inputs[: max(1, min(PROMPT_TOKENS, inputs.size // 2))]
        before = self.task.decode(prompt)
        if count == 0 or before is None:
            return
        after = self.task.decode(self.trainer.generate(prompt, count, self.config.seed)) or ""
        text = f"--- held-out text ---\n{before}\n--- continued by the model ({count} tokens) ---\n{after}\n"
        (self.run.path / "sample.txt").write_text(text, encoding="utf-8", errors="replace")


def _nonfinite_arrays(state: State) -> list[str]:
    """Names of the arrays of `state` that hold a number that is not finite."""
    return [
        name for part in (state.model, state.optimizer) for name, array in part.items() if not np.isfinite(array).all()
    ]
