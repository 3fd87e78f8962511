"""docs/api.md is what the docstrings say, and leaves no public name of the library out."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("make_api", ROOT / "docs" / "make_api.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(maker):
    """If this fails: python docs/make_api.py docs/api.md"""
    assert (ROOT / "docs" / "api.md").read_text(encoding="utf-8") == maker.document()


@pytest.mark.parametrize(("title", "package"), [("pytorch", "torch"), ("mlx", "mlx"), ("keras", "keras")])
def test_every_public_name_of_the_library_is_there(title, package):
    """What `__getattr__` (or `__all__`) of the package offers, read without importing it: Keras is not installed."""
    tree = ast.parse((ROOT / "mhc_exp" / package / "__init__.py").read_text(encoding="utf-8"))
    listed = {"LIBRARY", "__all__"}
    lists = [one.value for one in tree.body if isinstance(one, ast.Assign) and ast.unparse(one.targets[0]) in listed]
    names = {one.value for found in lists for one in ast.walk(found) if isinstance(one, ast.Constant)}
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert len(names) >= 7
    assert names == set(re.findall(rf'<a id="{title}-(\w+)">', text))


def test_a_public_name_without_a_docstring_is_refused(maker, tmp_path, monkeypatch):
    package = tmp_path / "silent"
    package.mkdir()
    (package / "__init__.py").write_text("__all__ = ['nothing_said']\ndef nothing_said(): ...\n")
    monkeypatch.setattr(maker, "ROOT", tmp_path)
    monkeypatch.setattr(maker, "PACKAGES", {"Silent": ("silent", "silent")})
    with pytest.raises(ValueError, match=r"silent\.nothing_said is public and has no docstring; write one"):
        maker.document()


def test_shapes_are_not_taken_for_emphasis(maker):
    assert maker._escaped("[*, C] of `a[*]` by x_l") == r"[\*, C] of `a[*]` by x\_l"
