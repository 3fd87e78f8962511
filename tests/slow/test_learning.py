"""What training must achieve, through the command line: minutes on one core (`make test-slow`)."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def train(directory, *words):
    """Rows of one run of `python -m mhc_exp WORDS` in `directory`."""
    command = [sys.executable, "-m", "mhc_exp", *words, "tracking=local", "name=run"]
    if not any(word.startswith("backend=") for word in words):
        command.append("backend=cpu")
    result = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    lines = (directory / "runs" / "single" / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("variant", ["baseline", "mhc"])
def test_noisy_increment_reaches_its_floor_and_never_goes_below(tmp_path, variant):
    rows = train(
        tmp_path, "dataset=noisy_increment", f"variant={variant}", "depth=2", "training.steps=800",
        "training.batch_size=32", "optimizer.lr=3e-3",
        "training.eval_every=200", "training.eval_batches=100", "training.checkpoint_every=400",
    )  # fmt: skip
    excess = [row["val/excess"] for row in rows if "val/excess" in row]
    standard_error = 1.894 / math.sqrt(100 * 32 * 64)  # per-token sd of this task's floor (docs of the dataset)
    assert min(excess) > -4 * standard_error
    assert excess[-1] < 0.01


def test_pointer_chasing_needs_two_blocks(tmp_path):
    accuracy = {}
    for depth in (1, 2):
        directory = tmp_path / str(depth)
        directory.mkdir()
        rows = train(
            directory, "dataset=pointer_chasing", f"depth={depth}", "training.steps=2000", "training.batch_size=64",
            "optimizer.lr=2e-3", "optimizer.weight_decay=0.01", "training.eval_every=500", "training.eval_batches=16",
            "training.checkpoint_every=1000",
        )  # fmt: skip
        accuracy[depth] = rows[-1]["val/accuracy"]
        if depth == 1:
            assert rows[-1]["val/loss"] == pytest.approx(math.log(8), abs=0.05), "one block stays at chance"
    assert accuracy[1] < 0.2
    assert accuracy[2] > 0.99


@pytest.mark.parametrize("backend", ["cpu", "mlx"])
def test_the_seed_demo_ends_where_its_readme_says(tmp_path, backend):
    rows = train(tmp_path, "experiment=seed_demo", f"backend={backend}")
    assert rows[-1]["train/loss"] == pytest.approx(0.12, abs=0.02)
    assert rows[-1]["train/nonfinite_total"] == 0
