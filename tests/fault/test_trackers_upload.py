"""Row 14: uploads that are killed and repeated leave every step of every run in W&B exactly once."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from standin import Standin, serving

pytest.importorskip("wandb")
pytest.importorskip("pandas")

from test_upload import record, steps, sweep, upload
from wandb_cases import KEY, environment

from mhc_exp.runs.directory import RunDirectory

ROWS = 3000


@pytest.fixture
def server() -> Iterator[Standin]:
    with serving() as standin:
        yield standin


def killed_uploads(server: Standin, directory: Path, count: int, seed: int) -> list[RunDirectory]:
    """Runs whose upload was killed at random, and then allowed to end."""
    draw, found = random.Random(seed), sweep(directory / "runs")
    for run in found:
        record(run, "done", (0, ROWS // 2), (ROWS // 2 - 10, ROWS))
    environ = environment(directory / "home", WANDB_API_KEY=KEY, WANDB_BASE_URL=server.url)
    for _ in range(count):
        command = [sys.executable, "-m", "mhc_exp", "upload"]
        with subprocess.Popen(command, cwd=directory, env=environ, stdout=-3, stderr=-3) as process:
            try:
                process.wait(draw.uniform(2.0, 6.0))
            except subprocess.TimeoutExpired:
                process.kill()
    return found


@pytest.mark.slow
@pytest.mark.fault(row=14)
def test_uploads_killed_5_times_send_every_step_once_seed_7(
    server: Standin, tmp_path: Path, trials: Callable[[int], None]
) -> None:
    trials(5)
    found = killed_uploads(server, tmp_path, 5, 7)
    for _ in range(3):  # a service that outlived its killed parent may still send what it had
        done = upload(server, tmp_path)
        if done.returncode == 0:
            break
    assert done.returncode == 0, done.stdout
    for run in found:
        assert steps(server, run) == [*range(ROWS)]


@pytest.mark.slow
@pytest.mark.fault(row=14, mutation=True)
def test_sending_everything_again_would_be_noticed(server: Standin, tmp_path: Path) -> None:
    run, _ = sweep(tmp_path / "runs")
    record(run, "done", (0, 20))
    assert upload(server, tmp_path, "runs").returncode == 0
    assert len(server.history) == 20
    program = "from mhc_exp.analysis import upload; upload._present = lambda *_: {}; upload.main(['runs'])"
    environ = environment(tmp_path / "home", WANDB_API_KEY=KEY, WANDB_BASE_URL=server.url)
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environ, capture_output=True, timeout=60)
    assert len(server.history) == 40
