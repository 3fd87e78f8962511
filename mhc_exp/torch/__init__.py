"""PyTorch backend: the model, its wirings and its trainer (CPU and CUDA); and the library for other people's models.

Names of mhc_exp.torch.library are also names of this package, imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mhc_exp.torch.library import *  # noqa: F403


def __getattr__(name: str) -> Any:
    if not name.startswith("__"):
        library = importlib.import_module("mhc_exp.torch.library")
        if name in library.__all__:
            return getattr(library, name)
    raise AttributeError(f"module 'mhc_exp.torch' has no attribute {name!r}")
