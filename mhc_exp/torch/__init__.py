"""PyTorch backend: the model, its wirings and its trainer (CPU and CUDA); and the library for other people's models.

Names of mhc_exp.torch.library are also names of this package, imported when they are first used.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mhc_exp.torch.library import *  # noqa: F403


def __getattr__(name: str) -> Any:
    # `from mhc_exp.torch import charts` asks here first, and the library itself imports charts.
    if not name.startswith("__") and importlib.util.find_spec(f"{__name__}.{name}") is None:
        library = importlib.import_module("mhc_exp.torch.library")
        if name in library.__all__:
            return getattr(library, name)
    raise AttributeError(f"module 'mhc_exp.torch' has no attribute {name!r}")
