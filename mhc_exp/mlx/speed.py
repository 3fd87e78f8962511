"""Matrix products that `mhc-exp doctor` times. Mirrors mhc_exp/torch/speed.py."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx


def products(size: int) -> dict[str, Callable[[], None]]:
    """Device -> one float32 product of two `size` x `size` matrices, waited for."""
    a = mx.random.uniform(shape=(size, size))
    mx.eval(a)
    device = "GPU" if mx.default_device() == mx.gpu else "CPU"
    return {device: lambda: mx.eval(a @ a)}
