"""PyTorch backend: the model, its wirings and its trainer (CPU and CUDA); and the library for other people's models.

Names of mhc_exp.torch.library are also names of this package, imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mhc_exp.torch.library import *  # noqa: F403

LIBRARY = frozenset(
    (
        "Adapter",
        "Branch",
        "CannotInject",
        "ExpandStreams",
        "HistoryConnection",
        "HyperConnection",
        "HyperConnection2d",
        "HyperSequential",
        "MHCSequential",
        "ReduceStreams",
        "Residual",
        "Residual2d",
        "StreamConnection",
        "Watch",
        "connection_parameters",
        "connections",
        "doubly_stochastic",
        "eject",
        "eject_mhc",
        "expand_streams",
        "freeze_body",
        "identity_preserving",
        "inject",
        "inject_mhc",
        "is_injected",
        "mixing_matrix",
        "parameter_groups",
        "preserves",
        "reduce_streams",
        "simplex",
    )
)
"""Written out: to ask the library for its names would import it whenever a module of this package is looked for."""


def __getattr__(name: str) -> Any:
    if name in LIBRARY:
        return getattr(importlib.import_module("mhc_exp.torch.library"), name)
    raise AttributeError(f"module 'mhc_exp.torch' has no attribute {name!r}")
