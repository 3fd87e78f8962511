"""Who may import what: the rooms of the house stay separate, and the framework-free core stays light."""

from __future__ import annotations

import ast
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mhc_exp

PACKAGE = Path(mhc_exp.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

OWNERS = {
    "hydra": ("__main__.py", "cli.py", "config/"),
    "omegaconf": ("__main__.py", "cli.py", "config/"),
    "torch": ("torch/",),
    "mlx": ("mlx/",),
    "keras": ("keras/",),
}
"""Package -> the only places that may import it."""

ONLY_COMPOSITION = ("config/compose.py", "config/overrides.py", "config/words.py")
"""Within config/, the files that may import Hydra; the rest is plain Python."""

BACKENDS = ("torch", "mlx", "keras")
HEAVY = (*BACKENDS, "hydra", "omegaconf", "wandb", "pandas", "matplotlib", "rich", "tokenizers", "datasets")


def imports(file: Path, *, at_the_door_only: bool = False) -> Iterator[str]:
    """Dotted names that `file` imports (only those at module level, if asked), relative imports made absolute."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    package = ("mhc_exp", *file.relative_to(PACKAGE).parent.parts)
    for node in module_level(tree) if at_the_door_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            origin = ".".join(filter(None, (base, node.module)))
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def module_level(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run on import: everything outside functions and `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from module_level(node)


def place(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


@pytest.mark.parametrize("package", OWNERS)
def test_a_framework_is_imported_only_in_its_own_room(package: str) -> None:
    strangers = [
        place(file)
        for file in FILES
        if not place(file).startswith(OWNERS[package]) and any(inside(name, package) for name in imports(file))
    ]
    assert strangers == []


def test_within_config_only_composition_knows_hydra() -> None:
    strangers = [
        place(file)
        for file in FILES
        if place(file).startswith("config/")
        and place(file) not in ONLY_COMPOSITION
        and any(inside(name, package) for name in imports(file) for package in ("hydra", "omegaconf"))
    ]
    assert strangers == []


@pytest.mark.parametrize(("room", "other"), list(itertools.permutations(BACKENDS, 2)))
def test_two_backends_never_meet(room: str, other: str) -> None:
    meetings = [
        place(file)
        for file in FILES
        if place(file).startswith(f"{room}/") and any(inside(name, f"mhc_exp.{other}") for name in imports(file))
    ]
    assert meetings == []


def test_the_rule_would_see_an_intruder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_rooms.PACKAGE", tmp_path)
    file = tmp_path / "mlx" / "model.py"
    file.parent.mkdir()
    file.write_text("def f():\n    from ..torch import model\n    import torch.nn as nn\n")
    assert {"mhc_exp.torch", "mhc_exp.torch.model", "torch.nn"} <= set(imports(file))
    assert list(imports(file, at_the_door_only=True)) == []


def core() -> list[str]:
    """Modules that must work on a machine with numpy alone."""
    doors = ("__main__.py", "cli.py", *ONLY_COMPOSITION)
    return [
        ".".join(("mhc_exp", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for file in FILES
        if place(file) not in doors and not place(file).startswith(tuple(f"{room}/" for room in BACKENDS))
    ]


def test_the_core_imports_no_framework() -> None:
    script = (
        "import importlib, sys\n"
        f"for module in {core()!r}:\n"
        "    importlib.import_module(module)\n"
        f"    loaded = [heavy for heavy in {HEAVY!r} if heavy in sys.modules]\n"
        "    assert not loaded, f'{module} imports {loaded}'\n"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("keras", "mhc_exp.keras needs the package keras, which is not installed; type: pip install 'mhc-exp[keras]'"),
        ("tensorflow", "before Python starts, type KERAS_BACKEND=torch, jax or tensorflow, whichever is installed"),
    ],
)
def test_the_room_of_keras_says_what_is_missing(missing: str, said: str, tmp_path: Path) -> None:
    """A Keras whose backend is missing fails as the real one does: by importing it."""
    (tmp_path / "keras.py").write_text(f"import {missing}\n")
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.modules[{missing!r}] = None; import mhc_exp.keras"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert said in done.stderr
