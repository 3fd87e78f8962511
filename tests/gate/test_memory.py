"""What a wiring holds while a sublayer runs is what it states (`families.kept`), on both backends.

The unit is a tensor [B, T, C]. Measured in the MLP where most are, without gradients. One allowance serves every
wiring: the embedding and the MLP's input, which their callers name, the MLP's input after its norm, and the attention's
output, which a loop in Python names until the next one. Coefficients are smaller than the unit.
"""

from __future__ import annotations

import gc

import numpy as np
import pytest
from gate_cases import cases

from mhc_exp.topology import families

WIDTH = 256
NAMED = 4
"""The allowance above. A connection around a whole block names one more: the block's input, beside the MLP's."""
COEFFICIENTS = {"torch": 0.05, "mlx": 0.75}
"""Coefficients and what they are made of; PyTorch's are counted only if one is as large as the unit. At this width the
largest are those of vwn, (2 m + n) n / C = 1/2, beside what they are made of.
"""
LAZY = {("gated_residual", "mlx"): 4}
"""MLX computes the write weights when they are used, after the sublayer: until then they hold what they will be made
of, the normed streams. Compiled, as in training, they are computed when the compiler likes.
"""


def held_by_torch(trainer, tokens: np.ndarray) -> float:
    """Bytes of tensors alive in an MLP and not before the forward pass."""
    import torch

    size, alive = WIDTH * tokens.size, []

    def storages():
        gc.collect()
        tensors = [tensor for tensor in gc.get_objects() if type(tensor) is torch.Tensor and tensor.numel() >= size]
        return {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}

    before = storages()
    for block in trainer.model.blocks:
        block.mlp.up.register_forward_pre_hook(lambda *_: alive.append(storages()))
    with torch.no_grad():
        trainer.model(torch.from_numpy(tokens.astype(np.int64)))
    return max(sum(one[pointer] for pointer in one.keys() - before.keys()) for one in alive)


def held_by_mlx(trainer, tokens: np.ndarray) -> float:
    """Bytes of MLX's active memory in an MLP beyond those before the forward pass."""
    import mlx.core as mx
    from mlx import nn

    alive = []

    class Watched(nn.Linear):
        def __call__(self, x):
            mx.eval(x)
            gc.collect()
            alive.append(mx.get_active_memory())
            return super().__call__(x)

    inputs = mx.array(tokens)
    mx.eval(inputs, trainer.model(inputs))  # constants of the model are computed when they are first used
    gc.collect()
    before = mx.get_active_memory()
    for block in trainer.model.blocks:
        block.mlp.up.__class__ = Watched
    mx.eval(trainer.model(inputs))
    return max(alive) - before


HELD = {"torch": held_by_torch, "mlx": held_by_mlx}


def measured(wiring, backend, *options):
    """(held, stated) of a wiring, in tensors [B, T, C]."""
    config = cases.tiny([*cases.WIRINGS[wiring], *options, f"model.width={WIDTH}"])
    trainer, tokens = cases.TRAINERS[backend](config), cases.batch().inputs
    trainer.model.eval()
    held = HELD[backend](trainer, tokens) / (4 * WIDTH * tokens.size)
    return held, families.kept(config.variant, config.depth)


@pytest.mark.gate("memory")
@pytest.mark.parametrize("backend", cases.TRAINERS)
@pytest.mark.parametrize("wiring", cases.GATED)
def test_as_much_is_kept_between_sublayers_as_is_stated(wiring, backend):
    held, stated = measured(wiring, backend, "depth=4")
    whole_blocks = getattr(cases.tiny(cases.WIRINGS[wiring]).variant, "site", "sublayer") == "block"
    allowed = NAMED + whole_blocks + LAZY.get((wiring, backend), 0) + COEFFICIENTS[backend]
    assert stated - 0.01 <= held <= stated + allowed


@pytest.mark.parametrize("backend", cases.TRAINERS)
@pytest.mark.parametrize(
    ("wiring", "more"),
    [
        ("attnres", ["depth=7"]),
        ("muddformer", ["depth=7"]),
        ("history", ["depth=4", "variant.window=6"]),
        ("mhc", ["depth=4", "variant.streams=8"]),
        ("xhc", ["depth=4", "variant.streams=24"]),
    ],
)
def test_a_larger_state_is_seen_to_be_larger_by_as_much(wiring, more, backend):
    """A measurement that misses the state would pass the test above within its allowance, but not this one."""
    held, stated = measured(wiring, backend, "depth=4")
    larger, stated_larger = measured(wiring, backend, *more)
    assert stated_larger - stated >= 2
    assert larger - held == pytest.approx(stated_larger - stated, abs=0.6)
