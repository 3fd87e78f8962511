"""Checkpoints that are whole or absent: written aside, synced, renamed; verified byte for byte before they are used.

A checkpoint is a directory `step_00000800/` with model.safetensors, optimizer.safetensors and manifest.json. The order
of calls is the one that survives every legal power loss: files, fsync each, fsync their directory, rename (the commit),
fsync the parent, and only then is the step acknowledged. safetensors has no checksum and most flipped bits load without
an error, so the manifest carries one for each file and one for itself.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mhc_exp.runs.disk import Disk, discard

if TYPE_CHECKING:
    from mhc_exp.training.trainer import State

FORMAT = 1
MANIFEST = "manifest.json"
MODEL, OPTIMIZER = "model.safetensors", "optimizer.safetensors"
LARGEST_MANIFEST = 10_000_000
"""Bytes; a real one has a thousand."""
_STEP = re.compile(r"step_(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint."""

    step: int
    state: State
    progress: dict[str, Any]
    """What the loop asked to remember: seconds, counters, score."""
    facts: dict[str, Any]
    """What the run was: config hash and wiring."""


class Damaged(Exception):
    """A checkpoint that is not byte for byte what was written."""


def _report(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


class CheckpointStore:
    """The checkpoints of one run in `root`. Everything but `steps` and `read` needs the lock of the run."""

    def __init__(
        self,
        root: Path,
        keep: int,
        *,
        facts: dict[str, Any] | None = None,
        disk: Disk | None = None,
        report: Callable[[str], None] = _report,
    ) -> None:
        """`facts` (config hash, wiring) go into every manifest; `report` receives one line per damaged checkpoint."""
        self.root, self.keep = root, keep
        self.facts = facts or {}
        self.disk = disk or Disk()
        self.report = report
        self.before_commit: Callable[[], None] = lambda: None
        """Called before a checkpoint appears: rows up to its step must be on the device by then."""
        self._verified: set[int] = set()

    def steps(self) -> list[int]:
        """Steps that have a directory, oldest first, valid or not."""
        if not self.root.is_dir():
            return []
        names = (entry.name for entry in os.scandir(self.root) if entry.is_dir(follow_symlinks=False))
        return sorted(int(match[1]) for name in names if (match := _STEP.fullmatch(name)))

    def clean(self) -> None:
        """Delete what earlier processes left half written or half deleted. Call at the start of a run."""
        if self.root.is_dir() and not self.root.is_symlink():
            for name in os.listdir(self.root):
                if name.startswith((".tmp-", ".del-")):
                    discard(self.root / name)

    def save(self, step: int, state: State, progress: dict[str, Any]) -> Path:
        """Write the checkpoint of `step` and delete those beyond `keep` valid ones.

        When this returns, the checkpoint survives a power cut. On OSError (a full disk, say) it frees what it may and
        tries once more. An OSError that is raised leaves the earlier checkpoints as they were and nothing half written.
        """
        self._refuse_link()
        files = _serialise(step, state, progress, self.facts)
        try:
            path = self._commit(step, files)
        except OSError:
            self.clean()
            self._purge()
            path = self._commit(step, files)
        self._purge()
        return path

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is intact, or None. Damaged ones are set aside as `.bad-...` and reported."""
        self._refuse_link()
        for step in reversed(self.steps()):
            checkpoint = self._try(step)
            if checkpoint is not None:
                return checkpoint
        return None

    def read(self, step: int) -> Checkpoint:
        """The checkpoint of `step`. Raises Damaged if any byte differs, OSError if it cannot be read."""
        return _deserialise(step, self.path(step))

    def path(self, step: int) -> Path:
        return self.root / f"step_{step:08d}"

    # --- writing -------------------------------------------------------------------------------------------------

    def _commit(self, step: int, files: dict[str, bytes]) -> Path:
        target = self.path(step)
        self.before_commit()
        if not self.root.is_dir():
            self.disk.mkdir(self.root)
            self.disk.sync_directory(self.root.parent)
        if target.exists():
            if self._is_valid(step):
                self.disk.sync_directory(self.root)
                return target
            if target.exists():
                self._quarantine(step, "it cannot be read")
        temporary = self.root / f".tmp-{target.name}-{os.getpid()}"
        try:
            self.disk.mkdir(temporary)
            for name, data in files.items():
                self.disk.write_durably(temporary / name, data)
            self.disk.sync_directory(temporary)
            self.disk.rename(temporary, target)
        except OSError:
            discard(temporary)
            raise
        self.disk.sync_directory(self.root)
        self._verified.add(step)
        return target

    def _purge(self) -> None:
        """Delete what is older than the `keep` newest valid checkpoints. What cannot be deleted waits for `clean`."""
        valid = 0
        for step in reversed(self.steps()):
            if valid < self.keep:
                valid += self._is_valid(step)
                continue
            doomed = self.root / f".del-{self.path(step).name}-{os.getpid()}"
            try:
                self.disk.rename(self.path(step), doomed)  # at once invisible: nobody reads a half-deleted checkpoint
                self._verified.discard(step)
                self.disk.remove_directory(doomed)
            except OSError:
                discard(doomed)

    # --- reading -------------------------------------------------------------------------------------------------

    def _is_valid(self, step: int) -> bool:
        return step in self._verified or self._try(step) is not None

    def _try(self, step: int) -> Checkpoint | None:
        try:
            checkpoint = self.read(step)
        except Damaged as error:
            self._quarantine(step, str(error))
            return None
        except OSError as error:  # perhaps a passing fault: leave it where it is
            self.report(f"checkpoint {self.path(step)} cannot be read ({error}); looking for an older one")
            return None
        self._verified.add(step)
        return checkpoint

    def _quarantine(self, step: int, reason: str) -> None:
        path = self.path(step)
        number = 0
        while (aside := self.root / f".bad-{path.name}-{number}").exists():
            number += 1
        try:
            self.disk.rename(path, aside)
        except OSError as error:
            self.report(f"checkpoint {path} is damaged ({reason}) and cannot be set aside ({error})")
        else:
            self.report(f"checkpoint {path} is damaged ({reason}); set aside as {aside.name}")

    def _refuse_link(self) -> None:
        if self.root.is_symlink():
            raise OSError(f"{self.root} is a symbolic link; checkpoints are never written or deleted through one")


def _serialise(step: int, state: State, progress: dict[str, Any], facts: dict[str, Any]) -> dict[str, bytes]:
    import numpy as np
    from safetensors.numpy import save

    files = {}
    for name, arrays in ((MODEL, state.model), (OPTIMIZER, state.optimizer)):
        # order="C": safetensors stores the memory of a transposed view as it lies
        files[name] = save({key: np.asarray(array, order="C") for key, array in arrays.items()})
    sizes = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    body = {"format": FORMAT, "step": step, "files": sizes, "progress": progress, "facts": facts}
    files[MANIFEST] = _seal(body)
    return files


def _seal(body: dict[str, Any]) -> bytes:
    """`body` as JSON with a hash of itself; the bytes are a function of the content, so any changed byte shows."""
    seal = hashlib.sha256(_text(body)).hexdigest()
    return _text({**body, "seal": seal})


def _text(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"


def _deserialise(step: int, path: Path) -> Checkpoint:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    from mhc_exp.training.trainer import State

    body = _manifest(path / MANIFEST)
    if body["step"] != step:
        raise Damaged(f"{MANIFEST} is of step {body['step']}")
    try:
        parts = [load(_verified_bytes(path / name, body["files"][name])) for name in (MODEL, OPTIMIZER)]
    except (SafetensorError, ValueError, TypeError, KeyError) as error:  # a header may promise anything
        raise Damaged(f"tensors cannot be read: {error}") from error
    return Checkpoint(step, State(*parts), body["progress"], body["facts"])


def _manifest(path: Path) -> dict[str, Any]:
    raw = _plain_bytes(path, LARGEST_MANIFEST)
    try:
        body = json.loads(raw)
        del body["seal"]
        intact = _seal(body) == raw
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Damaged(f"{path.name} is not readable") from error
    if not intact:
        raise Damaged(f"{path.name} was changed after it was written")
    if not _complete(body):
        raise Damaged(f"{path.name} is not a manifest")
    if body["format"] != FORMAT:
        raise OSError(f"{path} has format {body['format']}, this version reads {FORMAT}")
    return body


def _complete(body: dict[str, Any]) -> bool:
    """Whether everything is there that a reader takes for granted: anybody can compute a seal."""
    kinds = {"format": int, "step": int, "files": dict, "progress": dict, "facts": dict}
    if not all(isinstance(body.get(name), kind) for name, kind in kinds.items()):
        return False
    files = [body["files"].get(name) for name in (MODEL, OPTIMIZER)]
    return all(isinstance(entry, dict) and isinstance(entry.get("bytes"), int) and "sha256" in entry for entry in files)


def _verified_bytes(path: Path, expected: dict[str, Any]) -> bytes:
    data = _plain_bytes(path, expected["bytes"])
    if len(data) != expected["bytes"]:
        raise Damaged(f"{path.name} has {len(data)} bytes instead of {expected['bytes']}")
    if hashlib.sha256(data).hexdigest() != expected["sha256"]:
        raise Damaged(f"{path.name} does not have the sha256 of its manifest")
    return data


def _plain_bytes(path: Path, most: int) -> bytes:
    """The content of a regular file; a pipe would block for ever, a link may lead to a device without an end."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise Damaged(f"{path.name} is missing") from error
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
            raise Damaged(f"{path.name} is not a plain file") from error
        raise
    facts = os.fstat(fd)
    if not stat.S_ISREG(facts.st_mode) or facts.st_size > most:
        os.close(fd)
        if stat.S_ISDIR(facts.st_mode):
            raise Damaged(f"{path.name} is missing")
        size = f"has {facts.st_size} bytes instead of {most}" if stat.S_ISREG(facts.st_mode) else "is not a plain file"
        raise Damaged(f"{path.name} {size}")
    with open(fd, "rb") as file:
        return file.read()
