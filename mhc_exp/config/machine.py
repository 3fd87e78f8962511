"""What this machine has: packages, a CUDA device, memory. Nothing is imported to find out, except torch where asked."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
from pathlib import Path

PACKAGES = {"cpu": "torch", "cuda": "torch", "mlx": "mlx"}
"""Python package (and extra of this project) behind each backend."""

NVIDIA_DRIVER = ("/dev/nvidiactl", "/dev/nvidia0", "/proc/driver/nvidia/version", "/dev/dxg")
"""Files that exist where a CUDA device may be (`/dev/dxg`: Windows Subsystem for Linux)."""


def installed(package: str) -> bool:
    """Whether `package` can be imported (it is looked for, not imported).

    A mere directory of that name does not count: W&B leaves a `wandb/` behind wherever it ran. MLX is the exception,
    a namespace package whose compiled core is what matters.
    """
    try:
        spec = importlib.util.find_spec("mlx.core" if package == "mlx" else package)
    except ModuleNotFoundError:
        return False
    return spec is not None and spec.origin is not None


def cuda_possible() -> bool:
    """A cheap sign of an NVIDIA driver, so that machines without one never pay for importing torch."""
    return any(Path(file).exists() for file in NVIDIA_DRIVER)


def cuda_available() -> bool:
    """Whether PyTorch can use a CUDA device; asks torch itself (a second of import) if it is installed."""
    return installed("torch") and bool(importlib.import_module("torch").cuda.is_available())


def apple_silicon() -> bool:
    """Whether this is a Mac whose GPU MLX can use."""
    return platform.system() == "Darwin" and platform.machine() == "arm64"


def memory_bytes() -> int | None:
    """Physical memory, where the system tells."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def processor() -> str:
    """The CPU's name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
