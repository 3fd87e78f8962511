"""Row 5: the disk is full for a while, or for good."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Answer, ForkServer, configured, litter, opened, rows, weights

from mhc_exp.config.schema import Config

WORDS = ("training.steps=20", "training.checkpoint_every=4", "training.log_every=1", "model.width=8", "model.heads=1")
NEVER = 1000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if mounted.returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture(scope="module")
def straight(numpy_runs: ForkServer, memory: Path) -> Config:
    config = configured(memory / "straight", *WORDS)
    assert numpy_runs.run(config).code == 0
    return config


def unlike(config: Config, straight: Config) -> list[str]:
    wrong = ["other rows"] * (rows(config) != rows(straight))
    return wrong + ["other weights"] * (weights(config) != weights(straight)) + litter(config)


def full(server: ForkServer, place: Path, end: int, **more: list) -> tuple[Config, Answer]:
    """A run on a disk that is full from step 5 until step `end`."""
    config = configured(place / "runs", *WORDS)
    return config, server.run(config, faults={"fill_disk": [str(place), 5, end], **more})


@pytest.mark.fault(row=5)
def test_a_disk_that_is_full_for_a_while_costs_no_row(
    numpy_runs: ForkServer, small_disk: Path, straight: Config, trials: Callable[[int], None]
) -> None:
    trials(1)
    config, answer = full(numpy_runs, small_disk, 14)
    assert (answer.code, answer.text("full")) == (0, ["0"])
    assert unlike(config, straight) == []
    log = opened(config).log_path.read_text()
    assert "checkpoint of step 8 not written" in log or max(answer.numbers("saved")) == 20


@pytest.mark.fault(row=5)
def test_a_disk_that_stays_full_fails_the_run_which_goes_on_when_there_is_room(
    numpy_runs: ForkServer, small_disk: Path, straight: Config, trials: Callable[[int], None]
) -> None:
    trials(1)
    config, answer = full(numpy_runs, small_disk, NEVER)
    assert answer.code == 1
    assert opened(config).checkpoints.steps() == [4]
    (small_disk / "ballast").unlink()
    again = numpy_runs.run(config)
    assert (again.code, again.numbers("resumed")) == (0, [4])
    assert unlike(config, straight) == []


@pytest.mark.fault(row=5)
@pytest.mark.parametrize(("end", "code"), [(14, 0), (NEVER, 1)])
def test_files_that_may_not_grow_are_a_full_disk(
    numpy_runs: ForkServer, quick_disk: Path, straight: Config, end: int, code: int
) -> None:
    config = configured(quick_disk, *WORDS)
    assert numpy_runs.run(config, faults={"limit_files": [100, 5, end]}).code == code
    if code:
        assert numpy_runs.run(config).code == 0
    assert unlike(config, straight) == []


@pytest.mark.fault(row=5, mutation=True)
def test_dropping_what_a_full_disk_refuses_would_be_noticed(
    numpy_runs: ForkServer, quick_disk: Path, straight: Config
) -> None:
    config = configured(quick_disk, *WORDS)
    numpy_runs.run(config, faults={"limit_files": [100, 5, 14], "forgetful_ring": []})
    assert "other rows" in unlike(config, straight)
