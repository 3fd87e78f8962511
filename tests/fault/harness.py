"""Runs that are forked, killed, starved and compared: what the tests of the matrix of faults share."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mhc_exp.analysis.rows import read_records
from mhc_exp.config.build import as_mapping
from mhc_exp.config.compose import compose
from mhc_exp.config.schema import Config
from mhc_exp.runs.directory import RunDirectory

TIMES = ("seconds", "perf/step_seconds", "perf/tokens_per_second", "perf/peak_memory_bytes", "perf/mfu")
"""Columns that a clock or the machine decides."""
SMALL = (
    *("backend.threads=1", "depth=2", "dataset=increment", "dataset.vocab_size=16", "training=smoke"),
    *("model.width=16", "model.heads=2", "model.seq_len=8", "tracking=local", "launch=inline", "name=run"),
)
"""A run of twenty small steps in the process that starts it."""


@functools.cache
def _composed(*overrides: str) -> Config:
    return compose([*SMALL, *overrides])


def configured(root: Path, *overrides: str, seed: int = 0) -> Config:
    """A small run below `root`."""
    backend = () if any(word.startswith("backend=") for word in overrides) else ("backend=cpu",)
    return dataclasses.replace(_composed(*backend, *overrides), runs_root=str(root), seed=seed)


def opened(config: Config) -> RunDirectory:
    return RunDirectory.open(RunDirectory.location(config, None))


def rows(config: Config) -> list[dict[str, Any]]:
    """Rows of the run without what a clock decides."""
    found = read_records(opened(config).path).rows
    return [{name: value for name, value in row.items() if name not in TIMES} for row in found]


def weights(config: Config) -> dict[str, bytes]:
    """Model and optimizer state of the last checkpoint, byte for byte; its step must be the last of the budget."""
    store = opened(config).checkpoints
    path = store.path(config.training.steps or store.steps()[-1])
    return {name: (path / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")}


def litter(config: Config) -> list[str]:
    """Names in the run directory that only an unfinished write leaves, or a checkpoint set aside."""
    run = opened(config)
    names = [path.name for path in (*run.path.parent.iterdir(), *run.path.iterdir(), *run.checkpoints.root.iterdir())]
    return [name for name in names if name.startswith((".tmp-", ".del-", ".bad-", ".new-"))]


@dataclasses.dataclass(frozen=True)
class Answer:
    """What became of the processes of a request, and what they said before they ended."""

    codes: list[int]
    said: list[str]

    @property
    def code(self) -> int:
        (code,) = self.codes
        return code

    def numbers(self, word: str) -> list[int]:
        """Numbers after `word`: steps `saved`, `resumed` or written as a `row`; `calls` of the disk."""
        return [int(line.split()[1]) for line in self.said if line.startswith(f"{word} ")]

    def text(self, word: str) -> list[str]:
        return [line.partition(" ")[2] for line in self.said if line.startswith(f"{word} ")]


class ForkServer:
    """Starts runs as forks of a process in which everything is imported already; see forkserver.py."""

    def __init__(self, backend: str = "numpy") -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("forkserver.py")), backend]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=kept)

    def run(self, config: Config, **request: Any) -> Answer:
        """Start the run of `config`; `kill_after`, `count`, `faults`, `environment` as forkserver.py has them."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"config": as_mapping(config), **request}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the fork server is gone"
        return Answer(**json.loads(line))

    def close(self) -> None:
        self._process.communicate(timeout=30)


@contextlib.contextmanager
def fork_server(backend: str) -> Iterator[ForkServer]:
    server = ForkServer(backend)
    try:
        yield server
    finally:
        server.close()
