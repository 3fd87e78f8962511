"""`mhc-exp bench`: every suite in tiny, what it writes, and what it refuses before it times anything."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from door import Door, Said

from mhc_exp.benchmarks.bench import SUITES
from mhc_exp.config import machine
from mhc_exp.startup import PHASES
from mhc_exp.torch.kernels import build
from mhc_exp.torch.kernels.native import Native

TINY = ("--quick", "--rounds", "1", "--backend", "cpu", "--out", "found")
COLUMNS = {
    "connection": {"tokens", "streams", "width", "wiring", "tier", "difference", "ms", "ratio", "low", "high"},
    "step": {"width", "depth", "wiring", "tier", "ms", "ratio", "low", "high", "cpu_ms", "cpu_ratio"},
    "sinkhorn": {"iterations", "pass", "tier", "difference", "ms", "ratio", "cpu_ms", "cpu_ratio"},
    "startup": {"depth", "clock", *PHASES, "total", "low", "high"},
    "memory": {"depth", "wiring", "tier", "mb", "ratio", "to_eager"},
    "depth": {"depth", "wiring", "tier", "ms", "ratio", "cpu_ms"},
    "peers": {"tokens", "wiring", "tier", "ms", "ratio"},
}


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Door:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MHC_RUNS", raising=False)
    return Door(tmp_path, monkeypatch, capfd)


def found(file: str = "found/bench.json") -> dict[str, Any]:
    return json.loads(Path(file).read_text())


def refused(said: Said, message: str) -> None:
    assert (said.code, said.out) == (2, "")
    assert message in said.err


@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_in_tiny(door: Door, suite: str) -> None:
    sizes = [] if suite in ("depth", "connection", "sinkhorn", "peers") else ["--depth", "1"]
    said = door("bench", suite, *TINY, "--wiring", "mhc", *sizes)
    assert said.code == 0, said.err
    facts = found()
    result = facts["suites"][suite]
    assert list(facts["suites"]) == [suite]
    assert {"command", "date", "git", "versions", "processor", "cpus", "threads", "rounds"} <= facts.keys()
    assert result["load"]["seconds"] > 0
    for row in result["rows"]:
        assert row.keys() >= COLUMNS[suite]
        numbers = [value for value in row.values() if isinstance(value, int | float)]
        assert all(value >= 0 for value in numbers)
        if row["tier"] == "native" and row.get("depth", 1) == 1:
            assert 0 < row["difference"] < 1e-4
    tiers = {row["tier"] for row in result["rows"]}
    assert {"eager", "native"} <= tiers
    lines = [line for line in said.out.splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + len(result["rows"])
    assert Path("found/bench.md").read_text() in said.out.rpartition("found")[0]
    assert Path(f"found/{suite}.png").read_bytes().startswith(b"\x89PNG")
    assert re.search(r"ther processes used \d+\.\d\d cores during \d+ s", said.out)


def test_ratios_are_to_the_baseline_and_to_the_eager_tier(door: Door) -> None:
    assert door("bench", "step", "connection", *TINY, "--wiring", "identity_hc", "--json", "kept.json").code == 0
    suites = found("kept.json")["suites"]
    step, connection = ({(row["wiring"], row["tier"]): row for row in suites[name]["rows"]} for name in suites)
    assert list(step) == [("baseline", "eager"), ("identity_hc", "eager"), ("identity_hc", "native")]
    assert step["baseline", "eager"]["ratio"] == step["baseline", "eager"]["cpu_ratio"] == 1.0
    assert list(connection) == [("identity_hc", "eager"), ("identity_hc", "native")]
    assert connection["identity_hc", "eager"]["ratio"] == 1.0
    assert not Path("found/bench.json").exists()


def test_sizes_wirings_and_tiers_can_be_chosen(door: Door) -> None:
    words = ("--width", "16", "32", "--depth", "2", "--wiring", "kromhc", "mhc static", "--tier", "native")
    assert door("bench", "step", *TINY, *words).code == 0
    rows = found()["suites"]["step"]["rows"]
    assert {(row["width"], row["depth"]) for row in rows} == {(16, 2), (32, 2)}
    assert {(row["wiring"], row["tier"]) for row in rows} == {
        ("baseline", "eager"), ("kromhc", "native"), ("mhc static", "native")
    }  # fmt: skip
    assert all(0 < row["difference"] < 1e-3 for row in rows if row["tier"] == "native")


def test_the_linearity_is_said_of_every_model(door: Door) -> None:
    assert door("bench", "depth", *TINY, "--tier", "native").code == 0
    notes = found()["suites"]["depth"]["notes"]
    assert [note.partition(":")[0] for note in notes] == ["baseline eager", "mhc native"]
    assert all("from the straight line" in note for note in notes)


def test_a_tier_that_computes_something_else_is_not_timed(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Native.write
    monkeypatch.setattr(Native, "write", lambda *words: 1.01 * right(*words))
    for suite, what in (("connection", "mhc native at 48 tokens"), ("step", "mhc native, depth 1")):
        said = door("bench", suite, *TINY, "--wiring", "mhc")
        assert said.code == 1
        assert f"mhc-exp bench: {what}" in said.err
        assert re.search(r"relative difference \d.*, allowed is .*; nothing was timed", said.err)
        assert " ms " not in said.out
    assert not Path("found").exists()


def test_without_a_compiler_the_table_says_so(door: Door, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    build.library.cache_clear()
    try:
        assert door("bench", "sinkhorn", "step", *TINY, "--wiring", "mhc").code == 0
        for name, result in found()["suites"].items():
            assert {row["tier"] for row in result["rows"]} == {"eager"}
            assert any("not measured: " in note and "no C compiler" in note for note in result["notes"]), name
        refused_later = door("bench", "sinkhorn", *TINY, "--tier", "native")
        assert refused_later.code == 2
        assert "sinkhorn has nothing to measure; not measured: native: " in refused_later.err
    finally:
        build.library.cache_clear()


def test_without_matplotlib_there_are_tables_and_no_pictures(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = machine.installed
    monkeypatch.setattr(machine, "installed", lambda package: package != "matplotlib" and installed(package))
    said = door("bench", "sinkhorn", *TINY)
    assert said.code == 0
    assert "no pictures: matplotlib is not installed; type: pip install 'mhc-exp[analysis]'" in said.err
    assert sorted(path.name for path in Path("found").iterdir()) == ["bench.json", "bench.md"]


def test_results_go_to_a_new_directory_below_the_runs(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MHC_RUNS", "elsewhere")
    assert door("bench", "sinkhorn", "--quick", "--rounds", "1", "--backend", "cpu").code == 0
    (directory,) = Path("elsewhere/bench").iterdir()
    assert {file.name for file in directory.iterdir()} == {"bench.json", "bench.md", "sinkhorn.png"}


def test_refusals_say_what_to_type(door: Door) -> None:
    refused(
        door("bench", "conection"), "no suite 'conection'; did you mean 'connection'?; allowed are connection, step"
    )
    refused(door("bench", "--wiring", "mch"), "no wiring 'mch'; did you mean 'mhc'?; allowed are 'mhc', 'mhc static'")
    refused(door("bench", "--width", "0"), "a positive whole number, not '0'")
    refused(door("bench", "--tier", "fast"), "invalid choice: 'fast'")
    assert door.left_behind() == []


def test_a_wiring_without_such_connections_is_refused_by_name_and_left_out_otherwise(door: Door) -> None:
    said = door("bench", "connection", *TINY, "--wiring", "rezero")
    assert said.code == 2
    assert "rezero is one of residual; type mhc-exp bench connection --wiring mhc, or mhc-exp bench step" in said.err
    assert not Path("found").exists()


def test_what_is_of_pytorch_alone_is_refused_on_mlx(door: Door) -> None:
    said = door("bench", "sinkhorn", "--quick", "--backend", "mlx")
    assert said.code == 2
    assert "sinkhorn is of PyTorch alone; type --backend cpu, or choose of step startup memory depth" in said.err


def test_another_backend_is_measured_in_whole_steps(door: Door) -> None:
    said = door("bench", "step", "--quick", "--rounds", "1", "--backend", "mlx", "--wiring", "mhc", "--out", "found")
    assert said.code == 0, said.err
    result = found()["suites"]["step"]
    assert [(row["wiring"], row["tier"]) for row in result["rows"]] == [("baseline", "eager"), ("mhc", "eager")]
    assert any("native is for backend=cpu" in note and "not mlx" in note for note in result["notes"])
