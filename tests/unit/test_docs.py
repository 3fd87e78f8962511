"""Code in the documents is run, so that it cannot grow old."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mhc_exp.torch.kernels import wirings

DOCS = Path(__file__).parents[2] / "docs"
WITH_CODE = [file for file in sorted(DOCS.glob("*.md")) if "```python" in file.read_text()]


@pytest.mark.parametrize("file", WITH_CODE, ids=lambda file: file.stem)
def test_the_python_of_a_document_runs_from_top_to_bottom(file):
    blocks = re.findall(r"```python\n(.*?)```", file.read_text(), re.S)
    exec(compile("\n".join(blocks), str(file), "exec"), {})


def test_the_python_of_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", (DOCS.parent / "README.md").read_text(), re.S)
    assert blocks
    exec(compile("\n".join(blocks), "README.md", "exec"), {})


def test_every_block_of_code_is_run_by_some_test():
    """What needs other packages is marked, and run by tests/library."""
    for file in (*WITH_CODE, DOCS.parent / "README.md"):
        found = set(re.findall(r"^```(python.*)$", file.read_text(), re.M))
        packages = ("transformers", "lightning", "mlx_lm", "keras")
        assert found <= {"python", *(f"python needs={package}" for package in packages)}


@pytest.mark.parametrize("file", [*DOCS.rglob("*.md"), DOCS.parent / "README.md"], ids=lambda file: file.name)
def test_links_between_documents_lead_somewhere(file):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", file.read_text())
    missing = [target for target in targets if not (file.parent / target).exists()]
    assert not missing


def test_code_was_found():
    assert "eli5" in {file.stem for file in WITH_CODE}


def test_the_table_of_tiers_says_what_is_chosen():
    assert wirings.table() in (DOCS / "performance.md").read_text()
