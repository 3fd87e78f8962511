"""Checkpoints when calls fail or power does: nothing is lost, nothing is left behind."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoint_cases import damage, step_of, store
from run_cases import DyingDisk, FailingDisk, same, state_of

from mhc_exp.runs import checkpoints as module
from mhc_exp.runs.checkpoints import MANIFEST, CheckpointStore
from mhc_exp.runs.disk import Disk
from mhc_exp.training.trainer import State

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # os.fork on Python 3.12

ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT)
Maker = Callable[[Path, Disk], CheckpointStore]


class InPlace(CheckpointStore):
    """What most projects do: files straight to their final names. The tests below must be able to tell."""

    def save(self, step: int, state: State, progress: dict) -> Path:
        path = self.path(0)  # one `last` checkpoint, overwritten
        path.mkdir(exist_ok=True)
        for name, data in module._serialise(step, state, progress, {}).items():
            self.disk.write_durably(path / name, data)
        return path

    def newest(self) -> module.Checkpoint | None:
        try:
            step = json.loads((self.path(0) / MANIFEST).read_bytes())["step"]
            return module._deserialise(step, self.path(0))
        except (module.Damaged, OSError, ValueError):
            return None


def in_place(root: Path, disk: Disk | None = None) -> CheckpointStore:
    return InPlace(root, 2, disk=disk)


def two_saved(root: Path, make: Maker) -> None:
    """Nothing below `root` but the checkpoints of steps 1 and 2."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for step in (1, 2):
        make(root, Disk()).save(step, state_of(step), {})


# --- errors ------------------------------------------------------------------------------------------------------


def error_violations(root: Path, make: Maker, error: int, persistent: bool) -> tuple[int, int]:
    """Fail the n-th call of a save for every n; (number of n at which a promise broke, calls of a save)."""
    broken = n = 0
    while True:
        n += 1
        two_saved(root, make)
        disk = FailingDisk(n, error, persistent=persistent)
        try:
            make(root, disk).save(3, state_of(3), {})
            saved = True
        except OSError as problem:
            broken += problem.errno != error
            saved = False
        found = make(root, Disk()).newest()
        litter = [name for name in os.listdir(root) if name.startswith(".tmp-")]
        kept_word = found is not None and found.step in ((3,) if saved else (2, 3)) and not litter
        broken += not kept_word or not (found and same(found.state, state_of(found.step)))
        make(root, Disk()).save(4, state_of(4), {})
        broken += step_of(make(root, Disk())) != 4
        if disk.calls < n:
            return broken, n - 1


@pytest.mark.fault(row=4)
@pytest.mark.parametrize("persistent", [False, True], ids=["transient", "persistent"])
@pytest.mark.parametrize("error", ERRORS, ids=[errno.errorcode[error] for error in ERRORS])
def test_an_error_at_any_call_loses_nothing_and_leaves_nothing_behind(tmp_path, error, persistent):
    broken, calls = error_violations(tmp_path / "c", store, error, persistent)
    assert broken == 0
    assert calls >= 15


@pytest.mark.fault(row=4, mutation=True)
def test_writing_in_place_would_fail_the_test_above(tmp_path):
    broken, _ = error_violations(tmp_path / "c", in_place, errno.ENOSPC, True)
    assert broken > 0


@pytest.mark.fault(row=4)
@pytest.mark.parametrize("n", range(1, 12))
def test_a_passing_error_is_overcome_by_trying_again(tmp_path, n):
    store(tmp_path, FailingDisk(n)).save(1, state_of(1), {})
    assert step_of(store(tmp_path)) == 1


@pytest.mark.fault(row=4)
def test_a_disk_that_takes_little_at_a_time_is_fed_until_it_has_everything(tmp_path):
    class Slow(Disk):
        def write(self, fd: int, data: memoryview) -> int:
            return super().write(fd, data[:37])

    store(tmp_path, Slow()).save(1, state_of(1), {})
    assert step_of(store(tmp_path)) == 1


# --- deaths ------------------------------------------------------------------------------------------------------


def death_violations(root: Path, make: Maker) -> tuple[int, int]:
    """Die at the n-th call of save and purge for every n; (number of n at which a promise broke, calls)."""
    broken = n = 0
    while True:
        n += 1
        two_saved(root, make)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            make(root, DyingDisk(n)).save(3, state_of(3), {})
            os.write(write, b"acknowledged")
            os._exit(0)
        os.close(write)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        acknowledged = bool(os.read(read, 100))
        os.close(read)
        kept = make(root, Disk())
        found = kept.newest()
        intact = found is not None and same(found.state, state_of(found.step))
        broken += not intact or (acknowledged and found is not None and found.step != 3)
        kept.clean()
        broken += any(name.startswith((".tmp-", ".del-")) for name in os.listdir(root))
        broken += step_of(kept) != (found and found.step)
        kept.save(4, state_of(4), {})
        broken += step_of(make(root, Disk())) != 4
        if code == 0:
            return broken, n - 1


@pytest.mark.fault(row=2)
def test_death_at_any_call_leaves_a_run_that_goes_on(tmp_path):
    broken, calls = death_violations(tmp_path / "c", store)
    assert broken == 0
    assert calls >= 15


@pytest.mark.fault(row=2, mutation=True)
def test_death_while_writing_in_place_would_lose_the_run(tmp_path):
    assert death_violations(tmp_path / "c", in_place)[0] > 0


@pytest.mark.fault(row=3)
def test_every_byte_is_synced_before_its_name_appears_and_the_name_before_the_step_is_acknowledged(tmp_path):
    class Recording(Disk):
        def __init__(self) -> None:
            self.unsynced: set[str] = set()
            self.at_commit: set[str] | None = None
            self.named: dict[int, str] = {}

        def open(self, path: Path, flags: int) -> int:
            fd = super().open(path, flags)
            self.named[fd] = path.name
            if flags & os.O_CREAT:
                self.unsynced |= {path.name, path.parent.name}
            return fd

        def fsync(self, fd: int) -> None:
            super().fsync(fd)
            self.unsynced.discard(self.named[fd])

        def rename(self, source: Path, target: Path) -> None:
            super().rename(source, target)
            self.at_commit = set(self.unsynced)
            self.unsynced.add(target.parent.name)

    disk = Recording()
    (tmp_path / "c").mkdir()
    store(tmp_path / "c", disk).save(1, state_of(1), {})
    assert disk.at_commit == set()
    assert disk.unsynced == set()


def test_what_must_be_on_disk_before_a_checkpoint_is_asked_for_first(tmp_path):
    kept = store(tmp_path)
    seen: list[list[int]] = []
    kept.before_commit = lambda: seen.append(kept.steps())
    kept.save(1, state_of(1), {})
    assert seen == [[]]


# --- damage ------------------------------------------------------------------------------------------------------


@pytest.mark.fault(row=7)
def test_400_damaged_checkpoints_are_all_recognised_and_the_one_before_is_used(tmp_path):
    draw = random.Random(20261122)
    original, root = tmp_path / "original", tmp_path / "c"
    for step in (1, 2):
        store(original).save(step, state_of(step), {"seconds": 1.5, "score": 2.5})
    silent = 0
    for _ in range(400):
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(original, root)
        damage(root / "step_00000002", draw)
        reports: list[str] = []
        silent += step_of(store(root, reports=reports)) != 1
        assert len(reports) == 1
        assert sorted(os.listdir(root)) == [".bad-step_00000002-0", "step_00000001"]
    assert silent == 0


def test_a_checkpoint_under_the_name_of_another_step_is_not_believed(tmp_path):
    store(tmp_path).save(1, state_of(1), {})
    (tmp_path / "step_00000001").rename(tmp_path / "step_00000009")
    assert store(tmp_path).newest() is None


def test_a_checkpoint_of_a_later_version_is_left_in_place(tmp_path, monkeypatch):
    store(tmp_path).save(1, state_of(1), {})
    monkeypatch.setattr(module, "FORMAT", 2)
    store(tmp_path).save(2, state_of(2), {})
    monkeypatch.undo()
    reports: list[str] = []
    assert step_of(store(tmp_path, reports=reports)) == 1
    assert "format 2" in reports[0]
    assert (tmp_path / "step_00000002").is_dir()


def test_a_damaged_checkpoint_on_a_read_only_disk_is_skipped_all_the_same(tmp_path):
    for step in (1, 2):
        store(tmp_path).save(step, state_of(step), {})
    (tmp_path / "step_00000002" / MANIFEST).write_bytes(b"{}")
    reports: list[str] = []
    assert step_of(store(tmp_path, FailingDisk(1, errno.EROFS, persistent=True), reports)) == 1
    assert "cannot be set aside" in reports[0]


def test_nothing_is_written_or_deleted_through_a_link(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    store(elsewhere).save(1, state_of(1), {})
    link = tmp_path / "c"
    link.symlink_to(elsewhere)
    with pytest.raises(OSError, match="symbolic link"):
        store(link).save(2, state_of(2), {})
    with pytest.raises(OSError, match="symbolic link"):
        store(link).newest()
    (elsewhere / ".tmp-x").mkdir()
    store(link).clean()
    assert sorted(os.listdir(elsewhere)) == [".tmp-x", "step_00000001"]


def test_purging_does_not_follow_a_link_inside_a_checkpoint(tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("chapter 1")
    kept = store(tmp_path / "c")
    kept.save(1, state_of(1), {})
    (tmp_path / "c" / "step_00000001" / "link").symlink_to(precious)
    for step in (2, 3):
        kept.save(step, state_of(step), {})
    assert kept.steps() == [2, 3]
    assert (precious / "thesis.tex").read_text() == "chapter 1"
