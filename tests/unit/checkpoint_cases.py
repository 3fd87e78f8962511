"""A store of checkpoints and states for it."""

from __future__ import annotations

from pathlib import Path

from run_cases import same, state_of

from mhc_exp.runs.checkpoints import CheckpointStore
from mhc_exp.runs.disk import Disk


def store(root: Path, disk: Disk | None = None, reports: list[str] | None = None) -> CheckpointStore:
    return CheckpointStore(root, 2, disk=disk, report=(reports if reports is not None else []).append)


def step_of(kept: CheckpointStore) -> int | None:
    checkpoint = kept.newest()
    assert checkpoint is None or same(checkpoint.state, state_of(checkpoint.step))
    return checkpoint.step if checkpoint else None
