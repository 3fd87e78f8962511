"""Rows 6 and 19: places that cannot be written, and several starts in the same second."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from run_cases import go, make, small_config

from mhc_exp.config.schema import Config
from mhc_exp.runs import launch, preflight
from mhc_exp.runs.directory import RunDirectory
from mhc_exp.runs.launch import Result

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # os.fork on Python 3.12
NOBODY = 65534


@contextlib.contextmanager
def without_permission(place: Path) -> Iterator[None]:
    """`place` is read-only for this process, also where it runs as root."""
    place.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        place.chmod(0o755)


@contextlib.contextmanager
def on_a_read_only_disk(place: Path) -> Iterator[None]:
    """`place` is the root of a file system mounted read-only."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True, capture_output=True)
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


PLACES = {"permission": without_permission, "read-only": on_a_read_only_disk}


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A directory that any user may enter (that of `tmp_path` is private)."""
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        place.chmod(0o755)
        yield place


def faulty(result: Result, place: Path, seconds: float) -> list[str]:
    """Promises that a refusal does not keep."""
    wrong = [] if (result.state, result.exit_code) == ("refused", 2) else [f"{result.state}, {result.exit_code}"]
    if len(result.message.splitlines()) != 1 or "runs_root=DIRECTORY" not in result.message:
        wrong.append(f"does not say what to type: {result.message}")
    left = [str(path) for path in place.rglob("*")]
    return wrong + ([f"left {left}"] if left else []) + ([f"took {seconds:.1f} s"] if seconds > 2 else [])


def attempt(kind: str, place: Path) -> list[str]:
    config = small_config(str(place / "runs"))
    with PLACES[kind](place):
        begun = time.process_time()
        result = go(config)
        return faulty(result, place, time.process_time() - begun)


@pytest.mark.fault(row=6)
@pytest.mark.parametrize("kind", PLACES)
def test_a_place_that_cannot_be_written_is_refused_in_one_line(kind: str, open_to_all: Path) -> None:
    assert attempt(kind, open_to_all) == []


@pytest.mark.fault(row=6)
@pytest.mark.skipif(os.geteuid() != 0, reason="a directory of somebody else needs root")
def test_a_run_that_cannot_be_written_any_more_is_refused_and_stays_as_it_is(open_to_all: Path) -> None:
    config = small_config(str(open_to_all))
    run = make(config)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with without_permission(run.path):
        result = go(config)
    assert result.exit_code == 2
    assert "cannot be written" in result.message
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


@pytest.mark.fault(row=6)
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_the_door_refuses_a_read_only_disk_with_exit_code_2(open_to_all: Path, tmp_path: Path) -> None:
    words = ["experiment=smoke", "backend=cpu", "tracking=local", f"runs_root={open_to_all}/runs"]
    with on_a_read_only_disk(open_to_all):
        command = [sys.executable, "-m", "mhc_exp", *words]
        said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (said.returncode, "Traceback" in said.stderr) == (2, False)
        assert "runs_root=" in said.stderr
        assert list(open_to_all.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault(row=6)
def test_a_disk_without_room_for_the_checkpoints_is_refused(open_to_all: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "needed_bytes", lambda config: 10**18)
    assert faulty(go(small_config(str(open_to_all / "runs"))), open_to_all, 0.0) == []


@pytest.mark.fault(row=6, mutation=True)
def test_without_the_look_beforehand_it_would_be_noticed(open_to_all: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "preflight", lambda config, path: None)
    assert attempt("permission", open_to_all)


# --- starts in the same second ---------------------------------------------------------------------------------------


def together(works: list[Callable[[], str]]) -> list[str]:
    """Do all `works` at once, each in a process of its own; what they return."""
    gate, release = os.pipe()
    pipes = []
    for work in works:
        read, write = os.pipe()
        if os.fork() == 0:
            os.close(release)
            os.read(gate, 1)  # until the parent closes its end
            try:
                os.write(write, work().encode())
            finally:
                os._exit(0)
        os.close(write)
        pipes.append(read)
    os.close(release)
    os.close(gate)
    said = []
    for pipe in pipes:
        said.append(os.read(pipe, 10_000).decode())
        os.close(pipe)
        os.wait()
    return said


def created(config: Config) -> str:
    """The directory and W&B id that a start got."""
    try:
        run = make(config)
    except FileExistsError:
        return "somebody was faster"
    return f"{run.path} {run.identity['wandb_id']}"


def collisions(root: Path, rounds: int) -> list[list[str]]:
    """Rounds of 4 starts in which two got the same directory or id, or one that nobody can open."""
    bad = []
    for number in range(rounds):
        config = small_config(str(root / str(number)))
        different = [dataclasses.replace(config, seed=seed) for seed in range(4)]
        said = together([lambda one=one: created(one) for one in different])
        columns = [{words.split()[at] for words in said if " " in words} for at in (0, 1)]
        whole = all(RunDirectory.open(words.split()[0]) for words in said if words.startswith("/"))
        if [len(column) for column in columns] != [4, 4] or not whole:
            bad.append(said)
    return bad


@pytest.mark.fault(row=19)
def test_four_starts_at_once_get_four_directories(tmp_path: Path, record_property) -> None:
    record_property("trials", 15)
    assert collisions(tmp_path, 15) == []


@pytest.mark.fault(row=19)
def test_of_four_equal_starts_at_once_one_makes_the_directory(tmp_path: Path, record_property) -> None:
    record_property("trials", 15)
    for number in range(15):
        config = small_config(str(tmp_path / str(number)))
        said = together([lambda config=config: created(config)] * 4)
        assert said.count("somebody was faster") == 3, said
        path = RunDirectory.location(config, None)
        assert os.listdir(path.parent) == [path.name]


@pytest.mark.fault(row=19, mutation=True)
def test_directories_named_by_the_clock_would_be_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = f"run-{re.sub('[^0-9]', '', time.strftime('%H-%M'))}"
    monkeypatch.setattr("mhc_exp.runs.directory.run_name", lambda config: clock)
    assert collisions(tmp_path, 2)
