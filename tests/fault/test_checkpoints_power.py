"""Row 3: whatever a power cut leaves of the real writer's work, the acknowledged checkpoint and its rows are there."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from power import RecordingDisk, restore

from mhc_exp.analysis.rows import read_records
from mhc_exp.runs.checkpoints import CheckpointStore
from mhc_exp.sinks.jsonl import JsonlSink
from mhc_exp.training.trainer import State

SAVES, KEEP = 4, 2


def state_of(step: int) -> State:
    return State({"w": np.full(2, step, np.float32)}, {"exp_avg.w": np.full(2, step / 2, np.float32)})


class PowerCuts:
    """Saves checkpoints and rows, and cuts the power after every call in every legal way."""

    def __init__(self, root: Path, model: str, **disk: bool) -> None:
        self.root, self.model = root, model
        self.acknowledged = 0
        self.seen: set[bytes] = set()
        self.broken: list[str] = []
        (root / "run").mkdir(parents=True)
        self.disk = RecordingDisk(root / "run", **disk)
        self.disk.observe = self.cut
        self.disk.mkdir(root / "run" / "checkpoints")
        self.disk.volume.sync(0)  # the run directory is made, and synced, before training

    def train(self) -> None:
        store = CheckpointStore(self.root / "run" / "checkpoints", KEEP, disk=self.disk)
        rows = JsonlSink(self.disk)
        store.before_commit = rows.flush
        rows.open(SimpleNamespace(path=self.root / "run"), SAVES, 0)  # type: ignore[arg-type]
        for step in range(1, SAVES + 1):
            rows.log({"step": step, "train/loss": 1 / step})
            store.save(step, state_of(step), {})
            self.acknowledged = step

    def cut(self) -> None:
        for state in self.disk.volume.states(self.model):
            digest = hashlib.sha256(repr((self.acknowledged, sorted(state.items()))).encode()).digest()
            if digest not in self.seen:
                self.seen.add(digest)
                self.check(state)
            if self.broken:
                return

    def check(self, state: dict[str, bytes | None]) -> None:
        after = self.root / "after"
        shutil.rmtree(after, ignore_errors=True)
        restore(state, after)
        store = CheckpointStore(after / "checkpoints", KEEP, report=lambda _: None)
        found = store.newest()
        step = found.step if found else 0
        if step < self.acknowledged:
            self.broken.append(f"step {self.acknowledged} was acknowledged, {step} is there")
        if found is not None and found.state.model["w"].tobytes() != state_of(step).model["w"].tobytes():
            self.broken.append(f"step {step} has other weights")
        rows = [row["step"] for row in read_records(after).rows]
        if rows[:step] != list(range(1, step + 1)):
            self.broken.append(f"checkpoint of step {step} with rows {rows}")
        store.clean()
        store.save(step + 1, state_of(step + 1), {})
        if (again := store.newest()) is None or again.step != step + 1:
            self.broken.append(f"after step {step} nothing can be saved")


def cuts(root: Path, model: str, **disk: bool) -> PowerCuts:
    run = PowerCuts(root, model, **disk)
    run.train()
    return run


@pytest.mark.fault(row=3)
@pytest.mark.parametrize("model", ["ordered", "any"])
def test_every_legal_power_cut_leaves_the_acknowledged_step_and_its_rows(
    quick_disk: Path, trials: Callable[[int], None], model: str
) -> None:
    run = cuts(quick_disk / "cuts", model)
    trials(len(run.seen))
    assert run.broken == []
    assert len(run.seen) > 100


@pytest.mark.fault(row=3, mutation=True)
@pytest.mark.parametrize("left_out", ["syncs_files", "syncs_directories"])
def test_leaving_out_a_sync_would_be_noticed(quick_disk: Path, left_out: str) -> None:
    assert cuts(quick_disk / "cuts", "ordered", **{left_out: False}).broken
