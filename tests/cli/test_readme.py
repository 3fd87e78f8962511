"""Every command of the README runs as written (only shorter: one update on one sequence)."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
LINES = [line.partition(" # ")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
COMMANDS = [line for line in LINES if line.startswith("python -m mhc_exp")]
SHORT = [
    "training.steps=1", "training.batch_size=1", "training.eval_batches=1", "training.sample_tokens=8",
    "tracking=local", "backend.threads=1",
]  # fmt: skip


def test_the_readme_has_commands():
    assert len(COMMANDS) >= 8
    assert {line for line in LINES if line not in COMMANDS} == {"make demo", "make test"}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_runs(command, tmp_path):
    shutil.copy(ROOT / "README.md", tmp_path)
    words = command.split()[3:]
    if "--help" in words:
        extra = []
    elif "sweep=depth" in words:
        extra = [*SHORT, "depth=1", "variant=baseline,demo_mhc"]
    else:
        extra = SHORT
    result = subprocess.run(
        [sys.executable, "-m", "mhc_exp", *words, *extra], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    if "--help" not in words:
        statuses = list((tmp_path / "runs").rglob("status.json"))
        assert statuses
        assert all('"done"' in status.read_text() for status in statuses)
