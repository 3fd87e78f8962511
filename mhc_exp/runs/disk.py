"""Every call that changes the disk, in one object, so that a test can fail the n-th one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path

_FULL_SYNC = getattr(fcntl, "F_FULLFSYNC", None)
"""macOS: os.fsync stops at the drive's cache, this does not."""


class Disk:
    """The operating system's calls, one method each, and the durable writes made of them. All raise OSError."""

    def mkdir(self, path: Path) -> None:
        os.mkdir(path)

    def open(self, path: Path, flags: int) -> int:
        return os.open(path, flags | os.O_CLOEXEC, 0o644)

    def write(self, fd: int, data: memoryview) -> int:
        """May write less than `data`; returns how much."""
        return os.write(fd, data)

    def fsync(self, fd: int) -> None:
        if _FULL_SYNC is not None:
            with contextlib.suppress(OSError):  # not every file system has it
                fcntl.fcntl(fd, _FULL_SYNC)
                return
        os.fsync(fd)

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def rmdir(self, path: Path) -> None:
        os.rmdir(path)

    def write_durably(self, path: Path, data: bytes) -> None:
        """Create `path` with `data` and wait until both are on the device (the name is not, before its directory)."""
        fd = self.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self.write(fd, rest) :]
            self.fsync(fd)
        finally:
            os.close(fd)

    def sync_directory(self, path: Path) -> None:
        """Wait until the names in `path` are on the device."""
        fd = self.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.fsync(fd)
        finally:
            os.close(fd)

    def replace_durably(self, path: Path, data: bytes) -> None:
        """Give `path` new content in one indivisible step: a reader sees the old bytes or the new ones.

        An OSError is raised if it happens twice.
        """
        try:
            self._replace(path, data)
        except OSError:
            self._replace(path, data)

    def _replace(self, path: Path, data: bytes) -> None:
        temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
        try:
            self.write_durably(temporary, data)
            self.rename(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        self.sync_directory(path.parent)

    def remove_directory(self, path: Path) -> None:
        """Delete a directory of plain files. A link is never followed: neither `path` nor anything in it."""
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                self.remove_directory(Path(entry.path))
            else:
                self.unlink(Path(entry.path))
        self.rmdir(path)


def discard(path: Path) -> None:
    """Delete a directory of our own as far as possible; what stays is deleted at the next start."""
    if not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
