"""`dataset=source_code`: 26 MB of Python as bytes, without a download: sympy 1.14.0, which PyTorch depends on.

Every machine with PyTorch has these files. They are read, never imported. The whole task is made in 0.1 s, of which
0.03 s reads 1532 files (0.3 s the first time after a boot) and 0.03 s hashes them, so nothing is cached.
"""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mhc_exp.config import schema
from mhc_exp.data.documents import Document, Parts, divide, files_below, name_hash, read_file
from mhc_exp.data.refusal import refusal
from mhc_exp.data.text import TextTask
from mhc_exp.data.tokenizers import Bytes

SYMPY = "1.14.0"
SHA256 = "7131b3237dde1196d927eb51572b49b5e0875f3ed7acc08b8147a2f8e7b75940"
"""Of the 1532 .py files of sympy 1.14.0 (the wheel's, no compiled ones), sorted by path, joined with a line break."""
_EVERY = 20


def make(config: schema.Config) -> TextTask:
    """The task; its `identity()` has a `note` if the installed files are not those of sympy 1.14.0."""
    return TextTask("source_code", parts_of(sympy_root()), Bytes(), config, "model.seq_len", "install all of sympy")


def sympy_root() -> Path:
    """Where sympy is installed, found without importing it."""
    spec = importlib.util.find_spec("sympy")
    if spec is None or not spec.submodule_search_locations:
        raise refusal(
            "dataset.kind",
            f"source_code reads the files of sympy, which is not installed: pip install sympy=={SYMPY} "
            "(or type dataset=text dataset.path=FILE_OR_DIRECTORY)",
        )
    return Path(spec.submodule_search_locations[0])


def parts_of(root: Path) -> Parts:
    """The .py files below `root`; every 20th in order of the sha256 of its relative path is held out."""
    documents = [Document(name, read_file(f"{root}/{name}", "dataset.kind")) for name in files_below(root, ".py")]
    by_hash = sorted((document.name for document in documents), key=name_hash)
    rule = f"every {_EVERY}th file in order of the sha256 of its relative path"
    parts = divide(documents, set(by_hash[::_EVERY]), rule, licence="BSD-3-Clause")
    if parts.identity["sha256"] == SHA256:
        return Parts(parts.training, parts.held_out, {"source": f"sympy {SYMPY}"} | parts.identity)
    facts = {
        "source": f"sympy {_installed_version()}, not the files of {SYMPY}",
        "note": f"losses do not compare with runs on sympy {SYMPY}; for the same text: pip install sympy=={SYMPY}",
    }
    return Parts(parts.training, parts.held_out, facts | parts.identity)


def _installed_version() -> str:
    try:
        return version("sympy")
    except PackageNotFoundError:
        return "of unknown version"
