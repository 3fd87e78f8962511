"""Floating point operations per token, counted from the equations, and the peaks they are compared with.

One multiply-add is two FLOPs. Backward is counted as twice forward. Element-wise work of the body is left out (it is
below one percent of the matrix products); that of the connections is counted, because it is all they do.
"""

from __future__ import annotations

import re

from mhc_exp.body.parameters import hidden_width
from mhc_exp.config.schema import Config
from mhc_exp.topology import families

PEAK_BF16 = {
    r"H100 PCIe": 756e12,
    r"H100 NVL": 835e12,
    r"H[12]00\b": 989e12,
    r"A100\b": 312e12,
    r"L40S\b": 362e12,
    r"L4\b": 121e12,
    r"RTX 4090$": 165e12,
}
"""Dense bfloat16 peak in FLOP/s by pattern of the device's name, first match wins (vendors' data sheets)."""


def forward_flops_per_token(config: Config, vocab_size: int) -> float:
    """Body and connections, averaged over the positions of a full sequence (causal attention sees T/2 keys)."""
    called = sum(families.passes(config.variant, config.depth))
    own = families.flops_per_token(config.variant, config.model.width, config.depth)
    return body_flops_per_token(config, vocab_size, called) + own


def body_flops_per_token(config: Config, vocab_size: int, called: int) -> float:
    """Forward FLOPs per token of `called` calls of a block, and of the head."""
    model = config.model
    width = model.width
    matrices = 4 * width * width + (3 if model.activation == "swiglu" else 2) * width * hidden_width(model)
    attention = 2 * width * model.seq_len / 2
    return called * 2 * (matrices + attention) + 2 * width * vocab_size


def training_flops_per_token(config: Config, vocab_size: int) -> float:
    """Forward and backward: three times forward."""
    return 3.0 * forward_flops_per_token(config, vocab_size)


def peak_flops(device: str, dtype: str) -> float | None:
    """bfloat16 peak of a known GPU by its name; None for another dtype or device (then no MFU is reported)."""
    if dtype != "bfloat16":
        return None
    return next((peak for pattern, peak in PEAK_BF16.items() if re.search(pattern, device)), None)
