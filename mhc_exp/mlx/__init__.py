"""MLX backend: the model, its wirings and its trainer (Apple GPU, Linux CPU); and the library for others' models.

Names of mhc_exp.mlx.library are also names of this package, imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mhc_exp.mlx.blas import load_fast_blas

if TYPE_CHECKING:
    from mhc_exp.mlx.library import *  # noqa: F403

load_fast_blas()  # before `import mlx`: the Linux wheel's own BLAS is 30 times slower

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
        "StreamConnection",
        "connection_filter",
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
        "preserves",
        "reduce_streams",
        "simplex",
    )
)
"""Written out: to ask the library for its names would import it whenever a module of this package is looked for."""


def __getattr__(name: str) -> Any:
    if name in LIBRARY:
        return getattr(importlib.import_module("mhc_exp.mlx.library"), name)
    raise AttributeError(f"module 'mhc_exp.mlx' has no attribute {name!r}")
