"""Python, packages, backends, and how fast they multiply matrices here."""

from __future__ import annotations

import platform
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import mhc_exp
from mhc_exp.config import machine
from mhc_exp.doctor.findings import Finding, note, ok, problem, size
from mhc_exp.doctor.probe import Broken, ask
from mhc_exp.runs.identity import git_state
from mhc_exp.threads import usable_cpus

PYTHONS = ((3, 11), (3, 14))
"""The first that works, and the first that does not."""
BACKENDS = ("torch", "mlx")
_EXTRA = re.compile(r"\s*(;|and)\s*extra\s*==\s*(['\"])[\w-]+\2\s*$")
"""The end of a requirement that an extra asks for."""
SLOW_PER_CORE = 10.0
"""GFLOP/s: a core with AVX2 or NEON reaches 30 to 150 in float32, the reference BLAS 4 in all."""
SLOW_SHARE = 0.25
"""Of the fastest library on the same device: good ones differ by less than two."""


def examine() -> Iterator[Finding]:
    """Everything that is installed."""
    yield python()
    yield checkout()
    yield from packages()
    yield from backends()
    yield from kernels()


def python() -> Finding:
    version, (least, beyond) = sys.version_info[:2], PYTHONS
    text = f"{platform.python_version()} on {machine.processor()}, {usable_cpus()} usable cores, {platform.platform()}"
    if least <= version < beyond:
        return ok("Python", text)
    return problem("Python", f"{text}; mhc_exp needs 3.11 to 3.13: make PYTHON=python3.12 install")


def checkout() -> Finding:
    where = Path(mhc_exp.__file__).resolve().parent.parent
    git = git_state(where)
    if git is None:
        return ok("mhc_exp", f"{mhc_exp.__version__} in {where}, not a git checkout")
    changed = ", with changes that are not committed" if git["dirty"] else ""
    return ok("mhc_exp", f"{mhc_exp.__version__} in {where}, commit {git['commit'][:12]}{changed}")


def packages() -> Iterator[Finding]:
    """Installed versions against the requirements of this project, those of extras too where something is installed."""
    from packaging.requirements import Requirement

    fine = 0
    for line, optional in requirements():
        requirement = Requirement(line)
        if requirement.name == "mhc-exp" or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        version, wanted = _installed(requirement.name), f"pip install '{requirement.name}{requirement.specifier}'"
        if version is None and not optional:
            yield problem("packages", f"{requirement.name} is missing; type: {wanted}")
        elif version is not None and not requirement.specifier.contains(version, prereleases=True):
            yield problem("packages", f"{requirement.name} {version} does not suit this project; type: {wanted}")
        else:
            fine += version is not None
    yield ok("packages", f"{fine} requirements are met by what is installed")


def requirements() -> list[tuple[str, bool]]:
    """Requirements of this code and whether each is optional: from pyproject.toml in a checkout, else as installed."""
    file = Path(mhc_exp.__file__).resolve().parent.parent / "pyproject.toml"
    if file.is_file():
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        extras = [line for lines in project["optional-dependencies"].values() for line in lines]
        return [*((line, False) for line in project["dependencies"]), *((line, True) for line in dict.fromkeys(extras))]
    try:
        lines = metadata.requires("mhc-exp") or []
    except metadata.PackageNotFoundError:
        return []
    return [(_EXTRA.sub("", line), bool(_EXTRA.search(line))) for line in lines]


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def backends() -> Iterator[Finding]:
    """Whether each can be imported, and its rate beside numpy's."""
    rates: dict[str, float] = {}
    working = 0
    for package in ("numpy", *BACKENDS):
        if package != "numpy" and not machine.installed(package):
            yield note(package, f"not installed; type: pip install 'mhc-exp[{package}]'")
            continue
        try:
            found = ask(package)
        except Broken as error:
            yield problem(package, f"cannot be used: {error}; type: pip install --force-reinstall {package}")
            continue
        working += package in BACKENDS
        for device, rate in found["gflops"].items():
            if device.startswith("CPU"):
                rates[package] = rate
            yield ok(package, f"{_installed(package)}, {device}: {rate:g} GFLOP/s in float32 matrix products")
        for warning in found["warnings"]:
            yield problem(package, warning)
    if not working:
        yield problem("backends", "none works, so nothing can be trained; type: pip install 'mhc-exp[torch]'")
    yield from slow(rates, usable_cpus())


def slow(rates: dict[str, float], cores: int) -> Iterator[Finding]:
    """CPU rates (GFLOP/s by package) that a sound installation does not have."""
    if not rates:
        return
    best = max(rates.values())
    low = [package for package, rate in rates.items() if rate < SLOW_PER_CORE * cores]
    for package in low:
        if rates[package] < SLOW_SHARE * best:
            advice = "; type: pip install mkl" if package == "mlx" and platform.machine() == "x86_64" else ""
            times = f"{best / rates[package]:.0f} times"
            yield problem("speed", f"{package} multiplies matrices {times} slower than others here{advice}")
    if low and best < SLOW_PER_CORE * cores:
        yield note(
            "speed",
            f"normal is {SLOW_PER_CORE:g} to 150 GFLOP/s for each of {cores} cores; this machine is busy or old",
        )
    elif not low:
        yield ok("speed", f"normal: {SLOW_PER_CORE:g} to 150 GFLOP/s for each of {cores} cores")


def kernels() -> Iterator[Finding]:
    """The compiler for the native kernels, and their cache."""
    if not machine.installed("torch"):
        return
    try:
        found = ask("kernels")
    except Broken as error:
        yield problem("kernels", f"{error}; type backend.kernels=eager to do without")
        return
    if "unavailable" in found:
        yield note("kernels", f"{found['unavailable']}; wirings of streams run slower, the results are the same")
        return
    threads = "with" if found["threaded"] else "without"
    yield ok("compiler", f"{found['compiler']}, kernels {threads} OpenMP ready after {found['seconds']:.1f} s")
    yield ok("kernel cache", f"{found['cache']}: {found['files']} files, {size(found['bytes'])}")
