"""Floating point operations per token, counted from the equations, and the peaks they are compared with.

One multiply-add is two FLOPs. Backward is counted as twice forward. Element-wise work of the body is left out (it is
below one percent of the matrix products); that of the connections is counted, because it is all they do.
"""

from __future__ import annotations

import re

from mhc_exp.body.parameters import hidden_width
from mhc_exp.config.schema import Config, Streams
from mhc_exp.topology.layout import connections, layout

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
    model = config.model
    width = model.width
    matrices = 4 * width * width + (3 if model.activation == "swiglu" else 2) * width * hidden_width(model)
    attention = 2 * width * model.seq_len / 2
    body = config.depth * 2 * (matrices + attention) + 2 * width * vocab_size
    return body + connection_flops_per_token(config)


def connection_flops_per_token(config: Config) -> float:
    """Forward FLOPs per token of all connections: projection, Sinkhorn, read, mix, write."""
    variant = config.variant
    if not isinstance(variant, Streams):
        return 0.0
    streams, width, sizes = variant.streams, config.model.width, layout(variant)
    mixing = 0 if variant.mix.chart == "identity" else 2 * streams**2 * width
    apply = 2 * streams * width + mixing + 2 * streams * width
    predict = 0.0
    if variant.coefficients == "dynamic":
        columns = sizes.total * streams * width if variant.norm == "flat_rms" else (sizes.total * width)
        predict = 2.0 * columns + 3 * streams * width
        if variant.mix.chart == "sinkhorn":
            predict += variant.mix.iterations * 4 * streams**2
    return connections(variant, config.depth) * (apply + predict)


def training_flops_per_token(config: Config, vocab_size: int) -> float:
    """Forward and backward: three times forward."""
    return 3.0 * forward_flops_per_token(config, vocab_size)


def peak_flops(device: str, dtype: str) -> float | None:
    """bfloat16 peak of a known GPU by its name; None for another dtype or device (then no MFU is reported)."""
    if dtype != "bfloat16":
        return None
    return next((peak for pattern, peak in PEAK_BF16.items() if re.search(pattern, device)), None)
