"""Kernels are compiled once for all tests, also for those whose processes have a home directory of their own; every
report of a test says to which rows of the matrix of faults it belongs.
"""

import os
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("MHC_CACHE", str(Path(tempfile.gettempdir()) / f"mhc_exp-tests-{os.getuid()}"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A property travels with the report, also out of a process of its own (tests/fault/table.py reads it)."""
    for item in items:
        rows = [[mark.kwargs["row"], mark.kwargs.get("mutation", False)] for mark in item.iter_markers("fault")]
        if rows:
            item.user_properties.append(("fault", rows))
