"""Configurations: of the laboratory (tests of the loop), and a mapping that is legal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from laboratory import configured

from mhc_exp.config.compose import compose, compose_mapping
from mhc_exp.config.schema import Config


@pytest.fixture(scope="module")
def composed() -> Config:
    return compose(["backend=cpu", "tracking=local", "training=smoke", "dataset=increment", "depth=1"])


@pytest.fixture
def config(composed: Config, tmp_path: Path) -> Config:
    """Intervals without a common divisor, so that every combination of row, evaluation and checkpoint occurs."""
    return configured(composed, tmp_path)


@pytest.fixture(scope="module")
def valid() -> dict[str, Any]:
    return compose_mapping(["variant=mhc", "backend=cpu", "dataset=pointer_chasing"])[0]
