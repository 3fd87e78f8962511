"""Small configurations, states and failing disks that several tests of runs and sinks share."""

from __future__ import annotations

import dataclasses
import errno
import functools
import os
from pathlib import Path

import numpy as np

from mhc_exp.config.compose import compose
from mhc_exp.config.schema import Config
from mhc_exp.runs.directory import RunDirectory
from mhc_exp.runs.disk import Disk
from mhc_exp.runs.launch import Result, launch
from mhc_exp.training.trainer import State


@functools.cache
def _composed() -> Config:
    return compose(
        [
            *("backend=cpu", "backend.threads=1", "depth=2", "dataset=increment", "dataset.vocab_size=16"),
            *("model.width=16", "model.heads=2", "model.seq_len=8", "training=smoke", "tracking=local"),
        ]
    )


def small_config(root: str) -> Config:
    """A run of a second: two blocks of width 16 on the increment task, no tracker, below `root`."""
    return dataclasses.replace(_composed(), runs_root=root)


def make(config: Config, sweep: str | None = None) -> RunDirectory:
    return RunDirectory.create(config, sweep=sweep, command=["mhc_exp", "depth=2"])


def go(config: Config, sweep: str | None = None, multirun: bool = False) -> Result:
    return launch(config, sweep=sweep, command=["mhc_exp"], multirun=multirun)


def state_of(step: int) -> State:
    """A state that differs in every array from that of any other step."""
    draw = np.random.default_rng(step)
    model = {"embed.weight": draw.normal(size=(8, 16)), "head.weight": draw.normal(size=(16, 8)).T}
    model = {name: array.astype(np.float32) for name, array in model.items()}
    moments = {f"exp_avg.{name}": array * 0.5 for name, array in model.items()}
    return State(model, {**moments, "step": np.asarray(step, np.float32)})


def same(one: State, other: State) -> bool:
    """Bit for bit."""
    return all(
        mine.keys() == theirs.keys()
        and all(mine[k].shape == theirs[k].shape and mine[k].tobytes() == theirs[k].tobytes() for k in mine)
        for mine, theirs in ((one.model, other.model), (one.optimizer, other.optimizer))
    )


class FailingDisk(Disk):
    """The `n`-th call fails with `error`, and all later ones if `persistent`; a failing write takes half its bytes."""

    def __init__(self, n: int, error: int = errno.ENOSPC, *, persistent: bool = False) -> None:
        self.n, self.error, self.persistent = n, error, persistent
        self.calls = 0

    def strike(self) -> None:
        raise OSError(self.error, os.strerror(self.error))

    def tick(self) -> None:
        self.calls += 1
        if self.calls == self.n or (self.persistent and self.calls > self.n):
            self.strike()

    def mkdir(self, path: Path) -> None:
        self.tick()
        super().mkdir(path)

    def open(self, path: Path, flags: int) -> int:
        self.tick()
        return super().open(path, flags)

    def write(self, fd: int, data: memoryview) -> int:
        try:
            self.tick()
        except OSError:
            super().write(fd, data[: len(data) // 2])
            raise
        return super().write(fd, data)

    def fsync(self, fd: int) -> None:
        self.tick()
        super().fsync(fd)

    def rename(self, source: Path, target: Path) -> None:
        self.tick()
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self.tick()
        super().unlink(path)

    def rmdir(self, path: Path) -> None:
        self.tick()
        super().rmdir(path)


class DyingDisk(FailingDisk):
    """The process ends at the `n`-th call, in the middle of a write."""

    def strike(self) -> None:
        raise SystemExit

    def tick(self) -> None:
        try:
            super().tick()
        except SystemExit:
            os._exit(137)

    def write(self, fd: int, data: memoryview) -> int:
        if self.calls + 1 == self.n:
            Disk.write(self, fd, data[: len(data) // 2])
        return super().write(fd, data)
