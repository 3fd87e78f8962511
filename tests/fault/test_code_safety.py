"""Row 25: no line of the package can run what a file says; held by a walk over the syntax of every file."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import mhc_exp
from mhc_exp.paths import find

PACKAGE = Path(mhc_exp.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "shelve",
    "marshal",
    "jsonpickle",
    "imp",
    "pty",
    "code",
}
"""Imports that execute or unpickle."""
NAMES = {"eval", "exec", "compile", "__import__", "execfile", "input"}
CALLS = {
    *(
        "os.system",
        "os.popen",
        "os.spawnl",
        "os.execv",
        "os.execvp",
        "subprocess.getoutput",
        "subprocess.getstatusoutput",
    ),
    *("torch.load", "torch.jit.load", "torch.hub.load", "pandas.read_pickle", "pd.read_pickle", "joblib.load"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "tempfile.mktemp", "runpy.run_path"),
    *("hydra.utils.instantiate", "hydra.utils.call", "hydra.utils.get_class", "hydra.utils.get_method"),
    *("hydra.utils.get_object", "logging.config.dictConfig", "importlib.util.spec_from_file_location"),
}


def dangers(source: str) -> Iterator[str]:
    """What in `source` could run data as code."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (f"import {alias.name}" for alias in node.names if alias.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield from (f"from {module}" for _ in (1,) if module.split(".")[0] in MODULES)
            yield from (f"{module}.{a.name}" for a in node.names if f"{module}.{a.name}" in CALLS)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in NAMES or name in CALLS or name.endswith((".instantiate", ".read_pickle", ".to_pickle")):
                yield name
            yield from (f"{name}({word})" for word in map(ast.unparse, node.keywords) if word in FLAGS)


FLAGS = {"shell=True", "allow_pickle=True", "weights_only=False", "Loader=yaml.Loader", "Loader=yaml.UnsafeLoader"}


@pytest.mark.fault(row=25)
def test_no_file_of_the_package_can_run_data_as_code(record_property) -> None:
    found = {str(file.relative_to(PACKAGE)): list(dangers(file.read_text(encoding="utf-8"))) for file in FILES}
    record_property("trials", len(found))
    assert len(found) > 150
    assert {name: what for name, what in found.items() if what} == {}


@pytest.mark.fault(row=25, mutation=True)
@pytest.mark.parametrize(
    "line",
    [
        *("import pickle", "from pickle import loads", "eval(text)", "os.system(text)", "torch.load(path)"),
        *("np.load(path, allow_pickle=True)", "subprocess.run(text, shell=True)", "yaml.load(text)"),
        *("hydra.utils.instantiate(config)", "from torch.hub import load\ntorch.hub.load('x')", "pd.read_pickle(path)"),
        *("torch.load(path, weights_only=False)", "__import__(name)", "exec(code)", "from os import system"),
    ],
)
def test_the_walk_sees_a_line_that_could(line: str) -> None:
    assert list(dangers(line))


@pytest.mark.fault(row=25)
def test_no_shipped_yaml_names_code_or_reads_the_environment_beyond_its_own_variable() -> None:
    for file in [*find("conf").rglob("*.yaml"), *find("sweeps").rglob("*.yaml")]:
        text = file.read_text(encoding="utf-8")
        yaml.safe_load(text)
        assert "_target_" not in text, file
        assert set(re.findall(r"\$\{oc\.env:(\w+)", text)) <= {"MHC_RUNS"}, file


@pytest.mark.fault(row=25)
def test_modules_are_imported_by_name_only_where_the_names_are_ours() -> None:
    users = {
        str(file.relative_to(PACKAGE))
        for file in FILES
        if re.search(r"importlib\.import_module\((?!f?\"|')", file.read_text(encoding="utf-8"))
    }
    tables = {"commands.py", "torch/benchmarks.py"}
    assert {name for name in users if name not in tables} == set()
