"""Row 31: every notebook on runs that are not what it hoped for: it runs to its end and shows the gaps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("nbclient")

import nbclient
import nbformat
from test_notebooks import FIXTURE, NOTEBOOKS, executed

RUNS = sorted((FIXTURE / "depth_seeds").glob("*-d2-*"))


def copied(root: Path) -> list[Path]:
    return [shutil.copytree(run, root / "sweep" / run.name) for run in RUNS]


def status(run: Path, **fields: object) -> None:
    known = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps({**known, **fields}))


def nothing(root: Path) -> None:
    (root / "sweep").mkdir()


def running(root: Path) -> None:
    for run in copied(root):
        status(run, state="running", step=10)


def diverged(root: Path) -> None:
    for run in copied(root):
        lines = (run / "metrics.jsonl").read_text().splitlines()[:2]
        bad = json.dumps({"step": 9, "tokens": 9, "seconds": 1.0, "nonfinite": "train/loss=nan"})
        (run / "metrics.jsonl").write_text("\n".join([*lines, bad]) + "\n")
        status(run, state="diverged", step=9, score=None)


def without_columns(root: Path) -> None:
    for run in copied(root):
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        kept = [{"step": row["step"], **({"train/loss": 1.0} if row["step"] else {})} for row in rows]
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
        (run / "layers.jsonl").unlink(missing_ok=True)


def without_rows(root: Path) -> None:
    for run in copied(root):
        (run / "metrics.jsonl").write_bytes(b"")


def without_anything_but_rows(root: Path) -> None:
    for run in copied(root):
        (run / "run.json").unlink()
        (run / "status.json").write_text("{")


def damaged(root: Path) -> None:
    for number, run in enumerate(copied(root)):
        (run / "run.json").write_bytes([b"", b"{", b"[]", b"\xff"][number % 4])
        (run / "metrics.jsonl").write_bytes(b'\x00\xff\n{"step": "x"}\n' + (run / "metrics.jsonl").read_bytes()[:-7])


CASES: dict[str, Callable[[Path], None]] = {
    case.__name__: case
    for case in (nothing, running, diverged, without_columns, without_rows, without_anything_but_rows, damaged)
}


@pytest.mark.slow
@pytest.mark.fault(row=31)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_to_its_end_and_says_what_is_missing(notebook: Path, case: str, tmp_path: Path) -> None:
    CASES[case](tmp_path)
    said = executed(notebook, tmp_path)
    assert "No " in said or "no " in said, "nothing is missing?"


QUICK = ("nothing", "without_columns", "without_anything_but_rows")


@pytest.mark.fault(row=31)
@pytest.mark.parametrize(
    "case", [case if case in QUICK else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
def test_the_report_of_bad_runs_is_written_and_lists_the_gaps(case: str, tmp_path: Path, capsys) -> None:
    from mhc_exp.analysis.report import main
    from mhc_exp.analysis.sources import NothingThere

    CASES[case](tmp_path)
    if case == "nothing":
        with pytest.raises(NothingThere):
            main([str(tmp_path), "--out", str(tmp_path / "page")])
        return
    assert main([str(tmp_path), "--out", str(tmp_path / "page")]) == 0
    capsys.readouterr()


@pytest.mark.fault(row=31, mutation=True)
def test_a_notebook_that_fails_in_a_cell_is_noticed(tmp_path: Path) -> None:
    content = nbformat.read(NOTEBOOKS[0], as_version=4)
    content.cells = [content.cells[0], nbformat.v4.new_code_cell('RUNS = "x"\n{}["val/loss"]')]
    broken = tmp_path / "broken.ipynb"
    nbformat.write(content, broken)
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="KeyError"):
        executed(broken, tmp_path)
