"""Notebooks are thin, and answer for any runs; that they run on those of the repository is nbmake's business."""

from __future__ import annotations

import ast
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pandas")
pytest.importorskip("matplotlib")
pytest.importorskip("nbclient")

import nbclient
import nbformat

from mhc_exp.analysis import load_layers, load_runs

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
FIXTURE = NOTEBOOKS[0].parent / "fixture"
EACH = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook: Path) -> list[Any]:
    return [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]


def test_there_are_four() -> None:
    names = {notebook.stem for notebook in NOTEBOOKS}
    assert names == {"depth_stress_test", "stability_and_gains", "backend_parity", "learning_rate_fairness"}


@EACH
def test_a_notebook_is_thin_and_stripped(notebook: Path) -> None:
    assert len(nbformat.read(notebook, as_version=4).cells) <= 15
    cells = code_cells(notebook)
    assert cells[0].metadata.tags == ["parameters"]
    assert cells[0].source.startswith('RUNS = "')
    for cell in cells:
        assert not cell.outputs
        assert cell.execution_count is None
        logic = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.For, ast.While)
        assert not [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, logic)]


def executed(notebook: Path, source: Path) -> str:
    """What all cells show as text, with every parameter set to `source`; an error in a cell is raised."""
    content = nbformat.read(notebook, as_version=4)
    first = next(cell for cell in content.cells if cell.cell_type == "code")
    first.source = re.sub(r'= ".*"', f'= "{source}"', first.source)
    nbclient.NotebookClient(content, timeout=120, resources={"metadata": {"path": str(notebook.parent)}}).execute()
    outputs = [output for cell in content.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
    return "\n".join(str(output.data.get("text/markdown") or output.data["text/plain"]) for output in outputs)


@pytest.mark.fault(row=31)
@EACH
def test_one_run_that_is_not_done_gives_reasons_and_no_error(notebook: Path, tmp_path: Path) -> None:
    (run, *_) = sorted((FIXTURE / "depth_seeds").glob("baseline-*"))
    alone = shutil.copytree(run, tmp_path / run.name)
    status = json.loads((alone / "status.json").read_text())
    (alone / "status.json").write_text(json.dumps({**status, "state": "interrupted"}))
    said = executed(notebook, tmp_path)
    assert "interrupted" in said
    reason = {
        "depth_stress_test": "No table: needs runs of variant=baseline and of another wiring; there is baseline",
        "stability_and_gains": "No table: no run is done yet",
        "backend_parity": "No table: needs runs with backend=cpu and with another backend",
        "learning_rate_fairness": "No table: needs two learning rates of a wiring",
    }
    assert reason[notebook.stem] in said


@pytest.mark.parametrize("name", ["depth_stress_test", "learning_rate_fairness"])
def test_a_comparison_is_shown_with_what_it_costs(name: str) -> None:
    (notebook,) = [notebook for notebook in NOTEBOOKS if notebook.stem == name]
    compared = [cell.source for cell in code_cells(notebook) if '"verdict"' in cell.source]
    assert len(compared) == 2
    assert all('"parameters_percent", "flops_percent"' in source for source in compared)


def test_the_fixture_is_what_load_runs_reads() -> None:
    _, runs = load_runs(FIXTURE)
    assert set(runs["sweep"]) == {"depth_seeds", "learning_rate", "backend_parity", "depth_reasoning"}
    assert set(runs["status"]) == {"done", "diverged"}
    assert (runs["rows"] > 0).all()
    assert runs["broken_lines"].sum() == 0
    assert load_layers(FIXTURE / "depth_seeds")["run"].nunique() == 18


def test_the_fixture_is_small_and_tells_nothing_of_the_machine_that_made_it() -> None:
    files = [file for file in FIXTURE.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 600_000
    assert {file.name for file in files} <= {"README.md", "run.json", "status.json", "metrics.jsonl", "layers.jsonl"}
    for file in files:
        if file.name.endswith(("json", "jsonl")):
            text = file.read_text(encoding="utf-8")
            assert not re.search(r'"(/|[A-Z]:|~)|hostname|"host"|"pid"|wandb_id|platform', text), file
