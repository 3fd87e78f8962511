"""A process that imports one backend and times it: `python -m mhc_exp.doctor.probe numpy|torch|mlx|kernels`.

A broken package may end its process in any way, so the doctor looks at each in a child. The answer is one line of JSON.
"""

from __future__ import annotations

import importlib
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from mhc_exp.threads import thread_limit

SIZE = 1024
ROUNDS = 7
SECONDS = 120.0
"""Patience with one package: importing takes a second, compiling the kernels half a minute on a slow machine."""


class Broken(Exception):
    """The package does not work; the text is its last word."""


def ask(what: str) -> dict[str, Any]:
    """What the child `what` found. Raises Broken."""
    command = [sys.executable, "-m", "mhc_exp.doctor.probe", what]
    try:
        with thread_limit(None):
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise Broken(f"no answer within {SECONDS:g} s") from None
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        said = done.stderr.strip().splitlines()
        raise Broken(said[-1] if said else f"its process ended with {done.returncode} and no word")
    return json.loads(lines[-1])


def main(arguments: list[str]) -> int:
    (what,) = arguments
    print(json.dumps(_kernels() if what == "kernels" else _speed(what)))
    return 0


def _speed(package: str) -> dict[str, Any]:
    """GFLOP/s by device, and what the package warned about."""
    import warnings

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        make = _numpy_products if package == "numpy" else importlib.import_module(f"mhc_exp.{package}.speed").products
        rates = {device: round(2e-9 * SIZE**3 / _best(work), 1) for device, work in make(SIZE).items()}
    own = [str(warning.message) for warning in warned if "BLAS" in str(warning.message)]
    return {"gflops": rates, "warnings": own}


def _numpy_products(size: int) -> dict[str, Callable[[], None]]:
    import numpy as np

    a = np.random.default_rng(0).random((size, size), np.float32)
    out = np.empty_like(a)

    def work() -> None:
        np.matmul(a, a, out=out)

    return {"CPU": work}


def _best(work: Callable[[], None]) -> float:
    """Seconds of the fastest call: other processes only ever make one slower."""
    rounds = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        work()
        rounds.append(time.perf_counter() - begun)
    return min(rounds)


def _kernels() -> dict[str, Any]:
    """The compiler, the cache, and whether kernels can be compiled and loaded."""
    build = importlib.import_module("mhc_exp.torch.kernels.build")
    begun = time.perf_counter()
    try:
        library = build.library(4)
        files = list(build.cache_directory().glob("*.so"))
        return {
            "compiler": shlex.join(build.compiler()),
            "threaded": library.threaded,
            "cache": str(build.cache_directory()),
            "files": len(files),
            "bytes": sum(file.stat().st_size for file in files),
            "seconds": time.perf_counter() - begun,
        }
    except build.Unavailable as reason:
        return {"unavailable": str(reason)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
