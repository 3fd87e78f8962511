"""A thousand blocks train, and recomputing them changes no bit (`make test-slow`)."""

from __future__ import annotations

import json

import pytest
from test_learning import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

DEEP = (
    "dataset=increment", "dataset.vocab_size=16", "depth=1000", "model.width=16", "model.heads=2", "model.seq_len=16",
    "training.batch_size=2", "training.steps=2", "training.log_every=1", "training.metrics_every=1000",
    "training.eval_every=1000", "training.eval_batches=1", "training.checkpoint_every=1000",
)  # fmt: skip


@pytest.mark.parametrize("variant", ["baseline", "mhc"])
def test_a_thousand_blocks_run_with_and_without_recomputation(tmp_path, variant):
    losses = {}
    for recompute in ("none", "block"):
        directory = tmp_path / recompute
        directory.mkdir()
        rows = train(directory, *DEEP, f"variant={variant}", f"training.recompute={recompute}")
        losses[recompute] = [row["train/loss"] for row in rows if "train/loss" in row]
        identity = json.loads((directory / "runs" / "single" / "run" / "run.json").read_text())
        assert identity["recompute"].startswith("none" if recompute == "none" else "blocks of ")
        assert rows[-1]["train/nonfinite_total"] == 0
    assert len(losses["none"]) == 2
    assert losses["none"] == losses["block"]
