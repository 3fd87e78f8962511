"""`mhc-exp inspect` on runs that read earlier outputs, as a person types it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from door import Door

from mhc_exp.config.compose import compose
from mhc_exp.inspection import opened
from mhc_exp.runs.directory import RunDirectory
from mhc_exp.runs.launch import launch

PICTURES = ["reads_over_depth.png", "sources.png"]
SIZES = ["depth=2", "model.width=16", "model.heads=2", "model.seq_len=16", "backend=cpu", "backend.threads=1"]
TEXT = "What was said first is read again, and what was said last is read at once. " * 400


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with text.txt and the runs `attnres`, `muddformer` and `history`, to be copied."""
    root = tmp_path_factory.mktemp("trained")
    (root / "text.txt").write_text(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for variant in ("attnres", "muddformer", "history"):
            words = ["dataset=text", "dataset.path=text.txt", f"variant={variant}", "training=smoke", "tracking=local"]
            steps = ["training.steps=4", "training.metrics_every=2", "training.eval_batches=3", f"name={variant}"]
            result = launch(compose([*words, *SIZES, *steps]), sweep=None, command=["mhc-exp"], multirun=False)
            assert result.state == "done"
    return root


@pytest.fixture
def door(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Door:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MHC_RUNS", raising=False)
    return Door(tmp_path, monkeypatch, capfd)


def directory(name: str) -> Path:
    return next(Path("runs/single").glob(f"{name}*"))


def table(text: str) -> list[list[str]]:
    """Cells of the lines that begin with a number."""
    return [re.split("  +", line) for line in text.splitlines() if re.match(r"\d+ ", line)]


def test_inspect_prints_a_line_per_read_and_draws_two_pictures(door: Door) -> None:
    said = door("inspect", "attnres", "--out", "pictures")
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines()[0].endswith("5 reads of earlier outputs")
    lines = table(said.out)
    assert [line[:2] for line in lines] == [
        ["0 attention 0", "1"], ["1 mlp 0", "2"], ["2 attention 1", "3"], ["3 mlp 1", "4"], ["4 head", "5"],
    ]  # fmt: skip
    assert lines[0][2:] == ["-", "0.000", "1.000", "0.000", "-"], "a single source is read as it is"
    assert sorted(path.name for path in Path("pictures").iterdir()) == PICTURES
    assert all((Path("pictures") / name).stat().st_size > 5000 for name in PICTURES)


def test_a_sum_that_makes_the_next_state_is_named_after_who_reads_that_state(door: Door) -> None:
    lines = table(door("inspect", "history").out)
    assert [line[:2] for line in lines] == [
        ["0 mlp 0", "1"], ["1 attention 1", "2"], ["2 mlp 1", "3"], ["3 head", "4"],
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["attnres", "muddformer"])
def test_inspect_finds_what_the_run_wrote_at_that_step(name: str, door: Door) -> None:
    """The checkpoint's numbers are those of the last line of layers.jsonl: same definitions, same tokens."""
    last = json.loads((directory(name) / "layers.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 4
    lines = table(door("inspect", name).out)
    for column, index in {"history/entropy": 2, "history/mean_distance": 3, "history/largest": 4}.items():
        for line, expected in zip(lines, last[column], strict=True):
            assert (line[index] == "-") == (expected is None)
            assert expected is None or float(line[index]) == pytest.approx(expected, rel=0.06, abs=6e-4)
    gradients = [float(line[-1]) if line[-1] != "-" else None for line in lines]
    assert gradients == [None if value is None else pytest.approx(value, rel=0.06) for value in last["grad/read"]]


def test_the_other_backend_finds_the_same(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = table(door("inspect", "muddformer").out)
    monkeypatch.setattr(opened, "installed", lambda package: package == "mlx")
    said = door("inspect", "muddformer").out
    assert "on mlx" in said.splitlines()[0]
    assert [line[:5] for line in table(said)] == [line[:5] for line in mine]


def test_wirings_without_anything_to_show_are_refused_by_name(door: Door) -> None:
    said = door("intervene", "attnres", "--identity")
    assert (said.code, said.out) == (2, "")
    assert "attnres, which has connections of another kind; type a run of a wiring with family: streams" in said.err
    RunDirectory.create(compose(["variant=frac", "name=parts", *SIZES]), sweep=None, command=["mhc-exp"])
    said = door("inspect", "parts")
    assert said.code == 2
    assert "frac, which has connections of another kind" in said.err
    assert "such as attnres" in said.err
