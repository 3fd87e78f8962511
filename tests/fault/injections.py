"""What is done to a forked run (`forkserver.py`): faults, and protections switched off. All stay until it ends."""

from __future__ import annotations

import errno
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mhc_exp.runs import checkpoints, launch, lock
from mhc_exp.runs.checkpoints import CheckpointStore
from mhc_exp.runs.disk import Disk
from mhc_exp.sinks import jsonl
from mhc_exp.sinks.jsonl import JsonlSink
from mhc_exp.training import backends, loop

Say = Callable[[str], None]
CALLS = ("mkdir", "open", "write", "fsync", "rename", "unlink", "rmdir")
"""Methods of `Disk` that reach the operating system."""


def after(owner: Any, name: str, then: Callable[..., None]) -> None:
    """Call `then(result, *arguments)` whenever method `name` of `owner` has returned."""
    method = getattr(owner, name)

    def extended(*arguments: Any, **named: Any) -> Any:
        result = method(*arguments, **named)
        then(result, *arguments)
        return result

    setattr(owner, name, extended)


def acknowledge(say: Say) -> None:
    """Tell what the run may rely on: checkpoints that were saved, rows that were written."""
    after(CheckpointStore, "save", lambda _, store, step, *rest: say(f"saved {step}"))
    after(CheckpointStore, "newest", lambda found, _: say(f"resumed {found.step if found else 0}"))

    def written(_: None, sink: JsonlSink, row: Any) -> None:
        if sink.name == "metrics.jsonl" and sink.unwritten == 0:
            say(f"row {row['step']}")

    after(JsonlSink, "log", written)


# --- faults ------------------------------------------------------------------------------------------------------


def strike(say: Say, n: int, kind: str, error: str = "EIO", persistent: bool = False) -> None:
    """At call number `n` of `Disk`, in the middle of a write, `die` or `fail`; if persistent, at all later ones too.

    n=0 strikes never; what the run says last is the number of its calls.
    """
    code, count = getattr(errno, error), 0

    def struck() -> bool:
        nonlocal count
        count += 1
        return n > 0 and (count == n or (persistent and count > n))

    def act() -> None:
        if kind == "die":
            os._exit(137)
        raise OSError(code, os.strerror(code))

    def faulty(method: Callable[..., Any], writes: bool) -> Callable[..., Any]:
        def call(disk: Disk, first: Any, *rest: Any) -> Any:
            if struck():
                if writes:
                    method(disk, first, rest[0][: len(rest[0]) // 2])
                act()
            return method(disk, first, *rest)

        return call

    for name in CALLS:
        setattr(Disk, name, faulty(getattr(Disk, name), name == "write"))
    after(launch, "_attempt", lambda *_: say(f"calls {count}"))
    after(loop._Session, "_finish", lambda *_: say(f"trained {count}"))
    after(JsonlSink, "open", lambda *_: say(f"opened {count}"))


def before_step(act: Callable[[int], None]) -> None:
    """Call `act(step)` before every update of whatever trainer the run makes."""
    make = backends.make_trainer

    def made(*arguments: Any) -> Any:
        trainer = make(*arguments)
        update = trainer.step

        def step(number: int, *rest: Any) -> None:
            act(number)
            update(number, *rest)

        trainer.step = step  # type: ignore[method-assign]
        return trainer

    backends.make_trainer = made


def fill_disk(say: Say, directory: str, begin: int, end: int) -> None:
    """Nothing fits on the file system of `directory` from before step `begin` until before step `end`."""
    ballast = Path(directory) / "ballast"

    def act(step: int) -> None:
        if step == begin:
            with ballast.open("wb", buffering=0) as file:
                for size in (65536, 4096, 512, 1):
                    _until_full(file.write, bytes(size))
            say(f"full {os.statvfs(directory).f_bavail}")
        if step == end:
            ballast.unlink()

    before_step(act)


def limit_files(say: Say, size: int, begin: int, end: int) -> None:
    """No file may grow beyond `size` bytes from before step `begin` until before step `end`."""

    def act(step: int) -> None:
        if step in (begin, end):
            limit = size if step == begin else resource.RLIM_INFINITY
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    before_step(act)


def _until_full(write: Callable[[bytes], int | None], piece: bytes) -> None:
    while True:
        try:
            write(piece)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                return
            raise


def slow_fsync(say: Say, seconds: float) -> None:
    """Every fsync takes so long."""
    after(Disk, "fsync", lambda *_: time.sleep(seconds))


def slow_steps(say: Say, seconds: float) -> None:
    """Every update takes so much longer."""
    before_step(lambda _: time.sleep(seconds))


# --- protections switched off ------------------------------------------------------------------------------------


def in_place(say: Say) -> None:
    """Checkpoints are written to their final names, not aside."""

    def commit(store: CheckpointStore, step: int, files: dict[str, bytes]) -> Path:
        target = store.path(step)
        target.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            store.disk.write_durably(target / name, data)
        return target

    CheckpointStore._commit = commit  # type: ignore[method-assign]


def trusting(say: Say) -> None:
    """Checkpoints are believed as they are."""
    import json

    checkpoints._manifest = lambda path: json.loads(path.read_bytes())
    checkpoints._verified_bytes = lambda path, expected: path.read_bytes()


def early_word(say: Say) -> None:
    """A checkpoint is acknowledged before it is written."""
    save = CheckpointStore.save

    def hasty(store: CheckpointStore, step: int, *rest: Any) -> Any:
        say(f"saved {step}")
        return save(store, step, *rest)

    CheckpointStore.save = hasty  # type: ignore[method-assign]


def forgetful_ring(say: Say) -> None:
    """Rows that the disk does not take are not kept."""
    report = JsonlSink._report

    def forget(sink: JsonlSink, error: OSError) -> None:
        sink._waiting.clear()
        report(sink, error)

    JsonlSink._report = forget  # type: ignore[method-assign]


def blind_to_tears(say: Say) -> None:
    """A last line without an end is written on."""
    jsonl._torn = lambda fd: False


def lockless(say: Say) -> None:
    """Nobody waits for anybody."""
    lock._take = lambda fd: True


def busy_clock(say: Say) -> None:
    """Evaluation and checkpoints count as time of updates."""
    start = loop._Clock.start

    def once(clock: Any) -> None:
        if clock._mark == 0.0:
            start(clock)

    def pause(clock: Any, steps: int) -> None:
        now = time.monotonic()
        clock._busy += now - clock._mark
        clock._steps += steps
        clock._mark = now

    loop._Clock.start = once
    loop._Clock.pause = pause
