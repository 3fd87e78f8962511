"""Which compiler makes the C kernels, and what a killed one leaves in the cache."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mhc_exp.torch.kernels import build

REAL = shutil.which("cc") or shutil.which("gcc") or "cc"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache of kernels."""
    monkeypatch.setenv("MHC_CACHE", str(tmp_path / "cache"))
    build.library.cache_clear()
    yield tmp_path / "cache" / "kernels"
    build.library.cache_clear()


def script(file: Path) -> Path:
    """A compiler that notes its arguments beside itself."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(f'#!/bin/sh\necho "$@" >> "{file}.said"\nexec {REAL} "$@"\n')
    file.chmod(0o755)
    return file


def test_arguments_of_cc_reach_the_compiler_and_the_key_of_the_cache(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = script(tmp_path / "mycc")
    monkeypatch.setenv("CC", f"{program} -DFIRST -D'SECOND=a b'")
    assert build.compiler() == [str(program), "-DFIRST", "-DSECOND=a b"]
    first = build.library(2).path
    said = Path(f"{program}.said").read_text().splitlines()
    assert said
    assert all(line.startswith("-DFIRST -DSECOND=a b -std") for line in said)
    build.library.cache_clear()
    monkeypatch.setenv("CC", str(program))
    assert build.library(2).path != first
    assert len(list(cache.glob("*.so"))) == 2


def test_a_program_whose_path_has_a_space_is_one_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = script(tmp_path / "my compiler" / "cc")
    monkeypatch.setenv("CC", str(program))
    assert build.compiler() == [str(program)]
    monkeypatch.setenv("CC", f"'{program}' -g")
    assert build.compiler() == [str(program), "-g"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no-such-compiler -O1", "CC=no-such-compiler -O1 names no program; set CC to a C compiler"),
        ("cc '-O1", "CC=cc '-O1 cannot be read .No closing quotation.; set CC to a command"),
    ],
)
def test_a_cc_that_cannot_be_run_is_refused_not_replaced(text: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", text)
    with pytest.raises(build.Unavailable, match=said):
        build.compiler()


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_cc_asks_for_nothing(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", text)
    assert build.compiler() == [REAL]


def test_what_a_killed_compiler_left_is_removed_an_hour_later(cache: Path) -> None:
    old, young = cache / "compiling-old", cache / "compiling-young"
    for left in (old, young):
        left.mkdir(parents=True)
        (left / "streams.c").write_text("")
    hours_ago = time.time() - 2 * 3600
    os.utime(old, (hours_ago, hours_ago))
    build.library(2)
    assert sorted(path.name for path in cache.glob("compiling-*")) == ["compiling-young"]
