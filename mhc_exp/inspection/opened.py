"""A checkpoint opened for looking: its weights in a trainer, and the run's own held-out batches. Nothing is written."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mhc_exp.analysis.sources import NothingThere
from mhc_exp.analysis.terminal import find
from mhc_exp.config.build import ConfigError
from mhc_exp.config.machine import PACKAGES, cuda_available, installed
from mhc_exp.config.schema import Config
from mhc_exp.config.variants import Streams
from mhc_exp.data import Batch, Task, make_task
from mhc_exp.runs.checkpoints import Checkpoint, Damaged
from mhc_exp.runs.directory import RunDirectory, RunRefused
from mhc_exp.threads import thread_count, thread_limit
from mhc_exp.topology import families
from mhc_exp.training.backends import BackendMissing, make_trainer
from mhc_exp.training.evaluation import held_out
from mhc_exp.training.probe import Probe, make_probe
from mhc_exp.training.trainer import Trainer


@dataclass(frozen=True)
class Opened:
    """A run with one of its checkpoints."""

    run: RunDirectory
    config: Config
    """That of the run, on a backend of this machine."""
    checkpoint: Checkpoint
    task: Task
    batches: list[Batch]
    """Held out, the same as during training."""
    trainer: Trainer
    """Holds the initial weights; `load` gives it those of the checkpoint."""
    probe: Probe

    def load(self) -> None:
        """Put the checkpoint's weights into the trainer. Raises NothingThere."""
        try:
            self.trainer.load(self.checkpoint.state)
        except (ValueError, KeyError) as error:
            made = f"the weights of {self.run.name} were made by another version of mhc_exp"
            raise NothingThere(f"{made}: {error}") from error

    @property
    def connection(self) -> Streams:
        """What each connection of the run's wiring is."""
        found = families.connection(self.config.variant)
        assert found is not None  # open_run refuses wirings without any
        return found

    def title(self) -> str:
        """Which run and which step."""
        state = self.run.status()["state"]
        ended = "" if state == "done" else f" (the run is {state})"
        return f"{self.run.name}, step {self.checkpoint.step}{ended}"


@contextlib.contextmanager
def open_run(word: str, step: int | None, *, histories: bool = False) -> Iterator[Opened]:
    """The run that `word` means with its checkpoint of `step` (None: the newest intact one), if its wiring has an H_res
    or, with `histories`, reads earlier outputs. Raises NothingThere.
    """
    run = _run(word)
    variant = run.config.variant
    if families.connection(variant) is None and not (histories and _has_history(run.config)):
        several = families.streams_of(variant) or _has_history(run.config)
        has = "connections of another kind" if several else "one stream and nothing to mix"
        also = ", or one that reads earlier outputs, such as attnres" if histories else ""
        raise NothingThere(
            f"{run.name} is wired as {variant.name}, which has {has}; type a run of a wiring "
            f"with family: streams or looped, such as hc or mhc{also} (docs/variants.md lists them)"
        )
    checkpoint = _checkpoint(run, step)
    config = on_this_machine(run.config)
    with thread_limit(thread_count(config.backend.threads, config.model.width)):
        try:
            task = make_task(config)
            _same_data(run, task)
            # One piece: gradients are taken of the diagnosis batch, which accumulation might not divide.
            whole = replace(config, training=replace(config.training, accumulation=1))
            trainer = make_trainer(whole, task.vocab_size)
        except ConfigError as error:
            raise NothingThere(f"the data of {run.name} cannot be read any more:\n{error}") from error
        except BackendMissing as error:
            raise NothingThere(str(error)) from error
        yield Opened(run, config, checkpoint, task, held_out(config, task), trainer, make_probe(trainer, config))


def _has_history(config: Config) -> bool:
    return families.reads(config.variant, config.depth) is not None


def on_this_machine(config: Config) -> Config:
    """`config` with its own backend where that can run here, else with the other: weights are exchangeable."""
    name = config.backend.name
    if name == "cuda" and installed("torch") and not cuda_available():
        name = "cpu"
    elif not installed(PACKAGES[name]):
        name = "cpu" if name == "mlx" and installed("torch") else "mlx" if installed("mlx") else name
    return replace(config, backend=replace(config.backend, name=name))


def _run(word: str) -> RunDirectory:
    directory = find(word).directory
    if not Path(directory).is_dir():
        raise NothingThere(f"{word} is no run directory, and only those have checkpoints; type mhc-exp ls to see them")
    try:
        return RunDirectory.open(directory)
    except RunRefused as error:
        raise NothingThere(str(error)) from error


def _checkpoint(run: RunDirectory, step: int | None) -> Checkpoint:
    """Read without the lock, so a damaged checkpoint is passed over and left where it is."""
    steps = run.checkpoints.steps()
    if not steps:
        raise NothingThere(
            f"{run.name} has no checkpoint (state {run.status()['state']}); the command that trained it goes on with "
            "it, training.checkpoint_every=N makes them more often"
        )
    if step is not None and step not in steps:
        raise NothingThere(f"{run.name} has no checkpoint of step {step}; type one of: {', '.join(map(str, steps))}")
    for candidate in [step] if step is not None else reversed(steps):
        try:
            return run.checkpoints.read(candidate)
        except (Damaged, OSError) as error:
            print(f"the checkpoint of step {candidate} cannot be used: {error}", file=sys.stderr)
    raise NothingThere(f"no checkpoint of {run.name} can be used; its steps: {', '.join(map(str, steps))}")


def _same_data(run: RunDirectory, task: Task) -> None:
    """Raises NothingThere if the data is not that of the run: losses would not compare."""
    known, now = run.identity.get("data"), json.loads(json.dumps(task.identity()))
    if known is None or known == now:
        return
    changed = sorted(key for key in known.keys() | now.keys() if known.get(key) != now.get(key))
    lines = [f"  {key}: {known.get(key)} then, {now.get(key)} now" for key in changed]
    raise NothingThere("\n".join([f"{run.name} was trained on other data; restore it", *lines]))
