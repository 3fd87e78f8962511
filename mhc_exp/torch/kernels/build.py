"""The C kernels, compiled at first use by the system's compiler and kept in the user's cache.

The cache is keyed by sources, compiler, flags and CPU, so a home directory that different machines share is safe.
Nothing is downloaded, and no compiler means `Unavailable` with the reason.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import hashlib
import itertools
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from mhc_exp.config.checks import NATIVE_STREAMS

_HEADER, SOURCES = "lanes.h", ("streams.c", "predict.c", "sinkhorn.c")
FLAGS = ("-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fPIC", "-shared")
_CPU_FLAGS = (("-march=native",), ("-mcpu=native",), ())
_THREAD_FLAGS = (("-fopenmp",), ())
"""Tried in turn, the best first: compilers for ARM spell it -mcpu; Apple's has no OpenMP, and then one thread works."""
_UNFINISHED, _LEFT_BEHIND = "compiling-", 3600
"""How directories begin in which is compiled, and after how many seconds nobody compiles there any more."""


class Unavailable(Exception):
    """Why there are no native kernels here, as the end of a sentence."""


class Library:
    """The compiled kernels for one number of streams; a function that is short of memory raises MemoryError."""

    def __init__(self, path: Path):
        self.path = path
        self.threaded = path.stem.endswith("-openmp")
        """Whether the kernels use more than one thread."""
        self._library = ctypes.CDLL(str(path))

    def __getattr__(self, name: str):
        function = getattr(self._library, name)
        function.restype = ctypes.c_int

        def call(*arguments: object) -> None:
            if not function(*arguments):
                raise MemoryError(f"the kernel {name} could not allocate its working memory")

        setattr(self, name, call)
        return call


@functools.cache
def library(streams: int) -> Library:
    """The kernels for `streams` streams, compiled now if no earlier process has done so. Raises Unavailable."""
    if streams not in NATIVE_STREAMS:
        raise Unavailable(
            f"the native kernels are for {NATIVE_STREAMS[0]} to {NATIVE_STREAMS[-1]} streams, not {streams}"
        )
    command, directory = compiler(), cache_directory()
    key = _key(command, streams)
    for kept in directory.glob(f"{key}*.so"):
        try:
            return Library(kept)
        except OSError:  # damaged: made again
            kept.unlink(missing_ok=True)
    return _loaded(compile_kernels(command, streams, directory, key, _CPU_FLAGS))


def cache_directory() -> Path:
    """Where compiled kernels are kept: $MHC_CACHE, else the user's cache directory."""
    chosen = os.environ.get("MHC_CACHE")
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    directory = Path(chosen or Path(root) / "mhc_exp").expanduser() / "kernels"
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise Unavailable(
            f"{directory} cannot be written ({error.strerror}); set MHC_CACHE to a directory that can"
        ) from None
    return directory


def compiler() -> list[str]:
    """The command that compiles: $CC, which may have arguments, or the system's compiler. Raises Unavailable."""
    if asked := os.environ.get("CC", "").strip():
        return _asked(asked)
    for name in ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return [found]  # not resolved: ccache goes by the name it is called
    raise Unavailable("there is no C compiler (looked for $CC, cc, gcc and clang)")


def _asked(text: str) -> list[str]:
    """The command that $CC is: a program, with arguments if there is none whose name is all of it."""
    if found := shutil.which(text):
        return [found]
    try:
        name, *arguments = shlex.split(text)
    except ValueError as error:
        raise Unavailable(f"CC={text} cannot be read ({error}); set CC to a command or unset it") from None
    if found := shutil.which(name):
        return [found, *arguments]
    raise Unavailable(f"CC={text} names no program; set CC to a C compiler, such as gcc, or unset it")


def _key(command: Sequence[str], streams: int) -> str:
    """Name of the compiled file: everything that decides what is in it."""
    flags = [*FLAGS, *itertools.chain(*_CPU_FLAGS, *_THREAD_FLAGS)]
    programs = filter(None, map(shutil.which, command))  # behind a wrapper such as ccache stands the compiler
    identity = [*command, *itertools.chain(*map(_facts, programs)), *flags, platform.machine(), _cpu()]
    hashed = hashlib.sha256("\n".join(identity).encode())
    for name in (_HEADER, *SOURCES):
        hashed.update(_source(name))
    return f"streams{streams}-{hashed.hexdigest()[:24]}"


def _facts(program: str) -> list[str]:
    """What changes when a program is replaced by another."""
    real = Path(program).resolve()
    status = real.stat()
    return [str(real), str(status.st_size), str(status.st_mtime_ns)]


def _source(name: str) -> bytes:
    return resources.files("mhc_exp.torch.kernels").joinpath(name).read_bytes()


@functools.cache
def _cpu() -> str:
    """What -march=native depends on: the CPU's instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    wanted = ("flags", "Features", "model name", "CPU part", "cpu family")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def compile_kernels(
    command: Sequence[str], streams: int, directory: Path, key: str, cpus: Sequence[Sequence[str]]
) -> Path:
    """The compiled file; `cpus` are flags for the CPU to try, in this order. Raises Unavailable.

    It is made in a directory of its own and moved into place, so that a killed compiler leaves nothing half.
    """
    said, program = "no message", shlex.join(command)
    _clean(directory)
    try:
        with tempfile.TemporaryDirectory(dir=directory, prefix=_UNFINISHED) as own:
            for name in (_HEADER, *SOURCES):
                (Path(own) / name).write_bytes(_source(name))
            for cpu, threads in itertools.product(cpus, _THREAD_FLAGS):
                flags = [*FLAGS, *cpu, *threads, f"-DSTREAMS={streams}"]
                ran = _run([*command, *flags, *SOURCES, "-lm", "-o", "out.so"], own)
                if ran.returncode == 0:
                    target = directory / f"{key}{'-openmp' if threads else ''}.so"
                    os.replace(Path(own) / "out.so", target)
                    return target
                said = next(iter(ran.stderr.strip().splitlines()), said)
    except OSError as error:
        raise Unavailable(f"{program} could not be run in {directory} ({error.strerror or error})") from None
    raise Unavailable(f"{program} cannot compile the kernels: {said}")


def _clean(directory: Path) -> None:
    """Remove what killed compilers have left behind."""
    for left in directory.glob(f"{_UNFINISHED}*"):
        with contextlib.suppress(FileNotFoundError):  # another process removes it too
            if time.time() - left.stat().st_mtime > _LEFT_BEHIND:
                shutil.rmtree(left, ignore_errors=True)


def _run(command: list[str], directory: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{command[0]} took more than 5 minutes") from None


def _loaded(path: Path) -> Library:
    try:
        return Library(path)
    except OSError as error:
        raise Unavailable(f"the compiled kernels {path} cannot be loaded ({error})") from None
