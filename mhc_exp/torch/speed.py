"""Matrix products that `mhc-exp doctor` times. Mirrors mhc_exp/mlx/speed.py."""

from __future__ import annotations

from collections.abc import Callable

import torch


def products(size: int) -> dict[str, Callable[[], None]]:
    """Device -> one float32 product of two `size` x `size` matrices, waited for."""
    found = {f"CPU, {torch.get_num_threads()} threads": _product(size, "cpu")}
    if torch.cuda.is_available():
        found[torch.cuda.get_device_name()] = _product(size, "cuda")
    return found


def _product(size: int, device: str) -> Callable[[], None]:
    a = torch.rand(size, size, device=device)
    out = torch.empty_like(a)

    def work() -> None:
        torch.mm(a, a, out=out)
        if device == "cuda":
            torch.cuda.synchronize()

    return work
