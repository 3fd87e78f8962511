"""Runs the tests of the matrix of faults and prints its table: what was done, how often, and how it ended.

    python tests/fault/table.py                          # everything but the soak: what `make test-faults` runs
    python tests/fault/table.py --workers 1              # in one process, one test at a time
    python tests/fault/table.py -m fault -k metrics      # pytest's own options choose
    python tests/fault/table.py --write docs/reliability.md --log results.jsonl
    python tests/fault/table.py --read results.jsonl     # of runs that are over; the last one of a test counts

Tests anywhere below tests/ that are marked `fault(row=N)` belong to row N; with `mutation=True` they are its mutation
check: the protection is switched off, and the fault must be noticed. A test says how often it struck with
`record_property("trials", n)`; without it each test counts once. Ends with 1 if anything failed or a row has no test.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TESTS = HERE.parent
sys.path.insert(0, str(HERE))

from matrix import MATRIX  # noqa: E402

DEFAULT = ["-m", "fault and not soak"]
BEGIN, END = "<!-- begin of the generated table -->", "<!-- end of the generated table -->"


@dataclass(frozen=True)
class Ending:
    """How a test of a row ended."""

    row: int
    mutation: bool
    test: str
    outcome: str
    """passed, failed or skipped."""
    trials: int
    seconds: float


class Recorder:
    """A pytest plugin that keeps the tests of the matrix and remembers how they ended."""

    def __init__(self, log: Path | None = None) -> None:
        self.endings: list[Ending] = []
        self._log = log
        self._seconds: dict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid] += report.duration
        if report.when == "call" or not report.passed:
            for row, mutation in dict(report.user_properties).get("fault", []):  # see tests/conftest.py
                self._keep(report, row, mutation)

    def _keep(self, report: pytest.TestReport, row: int, mutation: bool) -> None:
        trials = int(str(dict(report.user_properties).get("trials", 1)))
        seconds = round(self._seconds[report.nodeid], 2)
        ending = Ending(row, mutation, report.nodeid, report.outcome, trials, seconds)
        self.endings.append(ending)
        if self._log:
            with self._log.open("a", encoding="utf-8") as log:
                log.write(json.dumps(asdict(ending)) + "\n")


def lines(endings: list[Ending]) -> list[str]:
    """The table in Markdown."""
    table = ["| # | fault | injection | promise | trials | result | mutation check | s |", "|--" * 8 + "|"]
    for number, fault in MATRIX.items():
        mine = [ending for ending in endings if ending.row == number]
        trials = sum(ending.trials for ending in mine if not ending.mutation and ending.outcome == "passed")
        seconds = sum(ending.seconds for ending in mine)
        results = [verdict([e for e in mine if e.mutation is mutation]) for mutation in (False, True)]
        cells = (number, fault.name, fault.injection, fault.promise, trials, *results, f"{seconds:.0f}")
        table.append("| " + " | ".join(map(str, cells)) + " |")
    return table


def verdict(endings: list[Ending]) -> str:
    """`12 tests hold`, and what does not."""
    if not endings:
        return "none ran"
    counts = {word: sum(ending.outcome == word for ending in endings) for word in ("passed", "failed", "skipped")}
    said = [f"{counts['passed']} hold"] if counts["passed"] else []
    said += [f"**{counts['failed']} broken**"] if counts["failed"] else []
    return ", ".join(said + ([f"{counts['skipped']} skipped"] if counts["skipped"] else []))


def missing(endings: list[Ending]) -> list[str]:
    """Rows without a test, or without a mutation check, that passed."""
    passed = {(ending.row, ending.mutation) for ending in endings if ending.outcome == "passed"}
    absent = [(row, mutation) for row in MATRIX for mutation in (False, True) if (row, mutation) not in passed]
    return [f"row {row} ({MATRIX[row].name}): no {'mutation check' if m else 'test'} passed" for row, m in absent]


def write(page: Path, text: str) -> None:
    """Replace what is between the two marks of `page`."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def ran(options: list[str], log: Path | None, workers: int) -> list[Ending]:
    """How the tests that `options` choose ended, in `workers` processes."""
    recorder = Recorder(log)
    chosen = options if "-m" in options else [*DEFAULT, *options]
    paths = [] if any(word.startswith("tests") for word in options) else [str(TESTS)]
    spread = ["-n", str(workers), "--dist", "worksteal"] if workers > 1 else []
    pytest.main(["-q", "--no-header", "-p", "no:cacheprovider", *spread, *chosen, *paths], plugins=[recorder])
    return recorder.endings


def read(log: Path) -> list[Ending]:
    """The last ending of every test in a log."""
    endings = [Ending(**json.loads(line)) for line in log.read_text(encoding="utf-8").splitlines()]
    return list({(ending.test, ending.row): ending for ending in endings}.values())


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into this page")
    parser.add_argument("--log", type=Path, metavar="FILE", help="append a line of JSON per test")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes, default: %(default)s")
    parser.add_argument("--read", type=Path, metavar="FILE", help="run nothing, read what --log has written")
    given, options = parser.parse_known_args(arguments)
    begin = time.monotonic()
    endings = read(given.read) if given.read else ran(options, given.log, given.workers)
    took = "" if given.read else f"{time.monotonic() - begin:.0f} s with {given.workers} at a time, "
    machine = f"{platform.system()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    tests, seconds = {ending.test for ending in endings}, sum(ending.seconds for ending in endings)
    closing = f"{len(tests)} tests: {took}{seconds:.0f} s in all of them, on {machine}."
    text = "\n".join([*lines(endings), "", closing])
    print(f"\n{text}")
    for line in missing(endings):
        print(line)
    if given.write:
        write(given.write, text)
    failed = any(ending.outcome == "failed" for ending in endings)
    return int(failed or bool(missing(endings)))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
