"""A real BLAS for MLX on Linux, found and loaded before `import mlx`.

The mlx-cpu wheel bundles the reference BLAS (4 GFLOP/s, one thread). Loading MKL or OpenBLAS first with global
symbols makes libmlx resolve cblas_*gemm there (100 to 170 GFLOP/s on two cores).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.metadata
import sys
import warnings
from pathlib import Path


class SlowBLAS(UserWarning):
    """MLX will multiply matrices with the reference BLAS of its wheel."""


def load_fast_blas() -> str | None:
    """Load MKL (the `mkl` package) or the system's OpenBLAS; returns its path, None where nothing is needed.

    Warns with the line to type if there is none. Does nothing on macOS (Accelerate) or if mlx is already imported.
    """
    if sys.platform != "linux" or "mlx.core" in sys.modules:
        return None
    for candidate in (_mkl(), ctypes.util.find_library("openblas")):
        if candidate is None:
            continue
        try:
            ctypes.CDLL(candidate, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return candidate
    warnings.warn(
        "MLX runs on the reference BLAS of its Linux wheel, about 30 times slower than it could; "
        "type: pip install mkl (or install the system's OpenBLAS)",
        SlowBLAS,
        stacklevel=2,
    )
    return None


def _mkl() -> str | None:
    """Path of libmkl_rt from the `mkl` distribution, wherever pip put it."""
    try:
        files = importlib.metadata.files("mkl") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = [Path(str(file.locate())) for file in files if file.name.startswith("libmkl_rt.so")]
    return str(paths[0].resolve()) if paths else None
