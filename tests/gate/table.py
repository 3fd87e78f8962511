"""Prints the gate: every wiring in conf/variant against every check, on every backend.

    python tests/gate/table.py              # all wirings: docs/results/gate.md says how long
    python tests/gate/table.py mhc hc       # some of them

A cell names what passed: `t` PyTorch, `m` MLX, `n` a check of the specification or of both backends together; `.` is
a check that makes no claim about this wiring, `X` a failure. The checks are the tests marked `gate`. Ends with 1 if
anything failed or any wiring was not checked.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections import defaultdict
from importlib import metadata
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
LETTER = {"torch": "t", "mlx": "m", None: "n"}
WORDS = {"t": "on PyTorch", "m": "on MLX", "n": "on both or neither", ".": "without a claim", "X": "failed"}
"""What the counts below the table are called."""
SADDLES = ("demo_hc", "demo_mhc")
"""Wirings whose connections never train (docs/seed_demo.md; tests of their own say so)."""


def exempt(wiring: str, check: str) -> bool:
    """Whether a check need not look at a wiring: relabelling streams has to be spelled out for each layout."""
    return check == "equivariance" or (check in ("gradient by step 5", "streams part") and wiring in SADDLES)


def subject(item: pytest.Item) -> tuple[str, str, str | None] | None:
    """(check, wiring, backend) of a test marked `gate` that is about a shipped wiring as it ships."""
    from gate_cases import cases

    marker = item.get_closest_marker("gate")
    if marker is None or not hasattr(item, "callspec"):
        return None
    parameters = item.callspec.params  # type: ignore[attr-defined]
    for value in parameters.values():
        name = value[0].removeprefix("variant=") if isinstance(value, list) and len(value) == 1 else value
        if isinstance(name, str) and name in cases.GATED:
            return marker.args[0], name, parameters.get("backend")
    return None


class Recorder:
    """A pytest plugin that keeps the gate's tests of the chosen wirings and remembers how they ended."""

    def __init__(self, wirings: list[str]):
        self.wirings = wirings
        self.subjects: dict[str, tuple[str, str, str | None]] = {}
        self.cells: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.seconds: dict[str, float] = defaultdict(float)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        found = {item.nodeid: subject(item) for item in items}
        self.subjects = {node: about for node, about in found.items() if about and self.wanted(about[1])}
        items[:] = [item for item in items if item.nodeid in self.subjects]

    def wanted(self, wiring: str) -> bool:
        return not self.wirings or wiring in self.wirings

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        check, wiring, backend = self.subjects[report.nodeid]
        self.seconds[wiring] += report.duration
        if report.skipped:
            self.cells[wiring, check].append(".")
        elif report.failed or report.when == "call":
            self.cells[wiring, check].append("X" if report.failed else LETTER[backend])

    @property
    def checks(self) -> list[str]:
        return list(dict.fromkeys(check for check, _, _ in self.subjects.values()))

    def cell(self, wiring: str, check: str) -> str:
        letters = self.cells.get((wiring, check), [])
        return "X" if "X" in letters else "".join(sorted(set(letters))) or "."

    def missing(self) -> list[str]:
        """What the collected tests do not cover: `WIRING: CHECK`."""
        from gate_cases import cases

        covered = {(wiring, check) for check, wiring, _ in self.subjects.values()}
        pairs = {(wiring, check) for wiring in filter(self.wanted, cases.SHIPPED) for check in self.checks}
        return [f"{wiring}: {check}" for wiring, check in sorted(pairs - covered) if not exempt(wiring, check)]


def run(wirings: list[str], *options: str) -> Recorder:
    """The gate on `wirings` (all if empty), quietly."""
    recorder = Recorder(wirings)
    pytest.main(["-q", "--no-header", "-p", "no:cacheprovider", *options, str(TESTS / "gate"), str(TESTS / "parity"),
                 str(TESTS / "unit" / "test_topology.py")], plugins=[recorder])  # fmt: skip
    return recorder


def machine() -> str:
    """Where this ran, in words."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "mlx", "numpy"))
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return f"{system}, Python {platform.python_version()}, {versions}, CPU only"


def main(wirings: list[str]) -> int:
    started = time.monotonic()
    recorder = run(wirings)
    names = list(dict.fromkeys(wiring for _, wiring, _ in recorder.subjects.values()))
    print("\n| wiring | " + " | ".join(recorder.checks) + " | seconds |")
    print("|---" * (len(recorder.checks) + 2) + "|")
    for wiring in sorted(names):
        cells = [recorder.cell(wiring, check) for check in recorder.checks]
        print(f"| `{wiring}` | " + " | ".join(cells) + f" | {recorder.seconds[wiring]:.1f} |")
    for line in recorder.missing():
        print(f"not checked: {line}")
    letters = [letter for cells in recorder.cells.values() for letter in cells]
    counted = ", ".join(f"{letters.count(letter)} {word}" for letter, word in WORDS.items())
    print(f"\n{len(names)} rows, {len(recorder.checks)} checks, {time.monotonic() - started:.0f} s: {counted}")
    print(machine())
    failed = any("X" in letters for letters in recorder.cells.values())
    return int(failed or bool(recorder.missing()))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
