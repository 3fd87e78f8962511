"""A store of checkpoints and states for it."""

from __future__ import annotations

import random
from pathlib import Path

from run_cases import same, state_of

from mhc_exp.runs.checkpoints import MANIFEST, CheckpointStore
from mhc_exp.runs.disk import Disk


def store(root: Path, disk: Disk | None = None, reports: list[str] | None = None) -> CheckpointStore:
    return CheckpointStore(root, 2, disk=disk, report=(reports if reports is not None else []).append)


def step_of(kept: CheckpointStore) -> int | None:
    checkpoint = kept.newest()
    assert checkpoint is None or same(checkpoint.state, state_of(checkpoint.step))
    return checkpoint.step if checkpoint else None


def damage(path: Path, draw: random.Random) -> None:
    """Change one file: flip a bit, cut it, blank its tail, let it grow, or remove it."""
    file = path / draw.choice(["model.safetensors", "optimizer.safetensors", MANIFEST])
    before = data = file.read_bytes()
    while data == before:
        place = draw.randrange(len(before))
        kind = draw.choice(["flip", "cut", "blank", "grow", "remove"])
        if kind == "remove":
            file.unlink()
            return
        data = {
            "flip": before[:place] + bytes([before[place] ^ 1 << draw.randrange(8)]) + before[place + 1 :],
            "cut": before[:place],
            "blank": before[:place] + bytes(len(before) - place),
            "grow": before + draw.randbytes(1 + draw.randrange(9)),
        }[kind]
    file.write_bytes(data)
