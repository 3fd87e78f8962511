"""Every state that a power cut may legally leave on a disk, from the calls that a program made (as ALICE, OSDI 2014).

A file's bytes are safe once it was synced, a name once its directory was. What is not safe yet may be there or not:
names in any subset (`any`) or, where the file system keeps their order, as a prefix (`ordered`); unsynced bytes whole,
absent, halved, or as zeros.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mhc_exp.runs.disk import Disk

ROOT = 0


@dataclass
class Inode:
    """A file, or a directory (`names`), independent of how it is called."""

    names: dict[str, int] | None = None
    data: bytes = b""
    synced: int = 0
    """Bytes of a file that are safe."""


@dataclass(frozen=True)
class Change:
    """Names of one or two directories that change in one step: (directory, name, inode or None)."""

    entries: tuple[tuple[int, str, int | None], ...]

    @property
    def directories(self) -> set[int]:
        return {entry[0] for entry in self.entries}


@dataclass
class Volume:
    """The disk as the program sees it, and the changes of names that are not safe yet."""

    inodes: dict[int, Inode] = field(default_factory=lambda: {ROOT: Inode({})})
    safe: dict[int, dict[str, int]] = field(default_factory=lambda: {ROOT: {}})
    """Directory -> names that survive for certain."""
    pending: list[Change] = field(default_factory=list)

    def find(self, parts: tuple[str, ...]) -> int:
        here = ROOT
        for part in parts:
            here = self.names(here)[part]
        return here

    def names(self, directory: int) -> dict[str, int]:
        names = self.inodes[directory].names
        assert names is not None, "a file has no names"
        return names

    def change(self, *entries: tuple[int, str, int | None]) -> None:
        for directory, name, inode in entries:
            _put(self.names(directory), name, inode)
        self.pending.append(Change(entries))

    def sync(self, inode: int) -> None:
        """Make a file's bytes safe, or the names in a directory."""
        node = self.inodes[inode]
        if node.names is None:
            node.synced = len(node.data)
            return
        done = [change for change in self.pending if inode in change.directories]
        self.pending = [change for change in self.pending if inode not in change.directories]
        for change in done:
            _apply(self.safe, change)

    def states(self, model: str) -> Iterator[dict[str, bytes | None]]:
        """Path -> bytes (None: a directory) of everything that may be found after the cut; `model` any or ordered."""
        count = len(self.pending)
        chosen = [range(k) for k in range(count + 1)] if model == "ordered" else _subsets(count)
        for kept in chosen:
            names = {directory: dict(entries) for directory, entries in self.safe.items()}
            for index in kept:
                _apply(names, self.pending[index])
            found = dict(_walk(names, self.inodes, ROOT, ""))
            torn = [path for path, inode in found.items() if self._unsafe(inode)]
            for ways in itertools.product(range(4), repeat=len(torn)):
                way = dict(zip(torn, ways, strict=True))
                yield {path: self._content(inode, way.get(path, 0)) for path, inode in found.items()}

    def _unsafe(self, inode: int) -> bool:
        node = self.inodes[inode]
        return node.names is None and node.synced < len(node.data)

    def _content(self, inode: int, way: int) -> bytes | None:
        node = self.inodes[inode]
        if node.names is not None:
            return None
        safe, rest = node.data[: node.synced], node.data[node.synced :]
        return safe + (rest, b"", rest[: len(rest) // 2], bytes(len(rest)))[way]


def _put(names: dict[str, int], name: str, inode: int | None) -> None:
    if inode is None:
        names.pop(name, None)
    else:
        names[name] = inode


def _apply(names: dict[int, dict[str, int]], change: Change) -> None:
    for directory, name, inode in change.entries:
        _put(names.setdefault(directory, {}), name, inode)


def _subsets(count: int) -> Iterator[tuple[int, ...]]:
    return itertools.chain.from_iterable(itertools.combinations(range(count), size) for size in range(count + 1))


def _walk(
    names: dict[int, dict[str, int]], inodes: dict[int, Inode], here: int, prefix: str
) -> Iterator[tuple[str, int]]:
    for name, inode in names.get(here, {}).items():
        yield prefix + name, inode
        if inodes[inode].names is not None:
            yield from _walk(names, inodes, inode, f"{prefix}{name}/")


class RecordingDisk(Disk):
    """Does what it is asked below `root` and keeps a `Volume` of it; `observe` is called after every call."""

    def __init__(self, root: Path, *, syncs_files: bool = True, syncs_directories: bool = True) -> None:
        self.root, self.volume = root, Volume()
        self._files, self._directories = syncs_files, syncs_directories
        self._open: dict[int, int] = {}
        self.observe = lambda: None

    def _parts(self, path: Path) -> tuple[str, ...]:
        return path.relative_to(self.root).parts

    def _place(self, path: Path) -> tuple[int, str]:
        *above, name = self._parts(path)
        return self.volume.find(tuple(above)), name

    def _make(self, path: Path, node: Inode) -> int:
        inode = len(self.volume.inodes)
        self.volume.inodes[inode] = node
        self.volume.change((*self._place(path), inode))
        self.observe()
        return inode

    def mkdir(self, path: Path) -> None:
        super().mkdir(path)
        self._make(path, Inode({}))

    def open(self, path: Path, flags: int) -> int:
        there = path.exists()
        fd = super().open(path, flags)
        if there:
            self._open[fd] = self.volume.find(self._parts(path))
        else:
            self._open[fd] = self._make(path, Inode())
        if flags & os.O_TRUNC and there:
            node = self.volume.inodes[self._open[fd]]
            node.data, node.synced = b"", 0
        return fd

    def write(self, fd: int, data: memoryview) -> int:
        count = super().write(fd, data)
        self.volume.inodes[self._open[fd]].data += bytes(data[:count])
        self.observe()
        return count

    def fsync(self, fd: int) -> None:
        inode = self._open[fd]
        if self._directories if self.volume.inodes[inode].names is not None else self._files:
            self.volume.sync(inode)
        self.observe()

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        moved = self.volume.find(self._parts(source))
        self.volume.change((*self._place(source), None), (*self._place(target), moved))
        self.observe()

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self._gone(path)

    def rmdir(self, path: Path) -> None:
        super().rmdir(path)
        self._gone(path)

    def _gone(self, path: Path) -> None:
        self.volume.change((*self._place(path), None))
        self.observe()


def restore(state: dict[str, bytes | None], root: Path) -> None:
    """Make `root`, which must not exist, look like `state`."""
    root.mkdir()
    for path, content in sorted(state.items()):
        if content is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(content)
