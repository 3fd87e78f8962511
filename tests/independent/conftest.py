"""Fixtures of the comparisons, and the table of digits that `make independent` ends with."""

from __future__ import annotations

from importlib import metadata

import numpy as np
import pytest
from other_code import Agreement, Digits

ROWS = pytest.StashKey[list[str]]()
HEADER = ["ours", "theirs", "what was compared", "largest difference (size)", "largest gradient difference"]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture
def digits(request: pytest.FixtureRequest) -> Digits:
    """Writes a row: digits(ours, package, part of it, what was compared, the agreement that was found)."""

    def write(ours: str, package: str, part: str, what: str, found: Agreement) -> None:
        version = metadata.version(package)
        gradient = "" if found.gradient is None else f"{found.gradient:.1e}"
        cells = [ours, f"{package} {version}, `{part}`", what, f"{found.output:.1e} ({found.size:.2g})", gradient]
        request.config.stash[ROWS].append("| " + " | ".join(cells) + " |")

    return write


def pytest_terminal_summary(terminalreporter, exitstatus: int, config: pytest.Config) -> None:
    if config.stash[ROWS]:
        terminalreporter.section("digits")
        for line in ("| " + " | ".join(HEADER) + " |", "|---" * len(HEADER) + "|", *config.stash[ROWS]):
            terminalreporter.write_line(line)
