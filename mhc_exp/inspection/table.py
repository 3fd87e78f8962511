"""What `mhc-exp inspect` prints: one line per connection of a selection, in two tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mhc_exp.analysis.terminal import columns_text
from mhc_exp.inspection.measured import Lines, Measured
from mhc_exp.topology.inspection import selection


def text(measured: Measured) -> str:
    """Both tables under one title; that of the mixing only where H_res is not the identity throughout."""
    lines, streams = measured.lines, measured.mix.shape[-1]
    mixing = {
        "diagonal": lines["mix/diagonal"],
        "|H-I|": lines["mix/identity_distance"],
        "moved": lines["mix/moved"],
        "spread": lines["mix/spread"],
        "residual": lines["mix/residual"],
        "sigma 1": lines["mix/sigma_1"],
        f"sigma {streams}": lines[f"mix/sigma_{streams}"],
        "forward": lines["gain/forward_amax"],
        "backward": lines["gain/backward_amax"],
        "to end fwd": lines["gain/composite_forward"],
        "to end bwd": lines["gain/composite_backward"],
    }
    flow = {
        "cosine": lines["streams/cosine"],
        "streams read": lines["streams/effective"],
        "written": lines["streams/effective_write"],
        "longest": lines["streams/dominant_share"],
        "top read": lines["read/dominant"],
        "top write": lines["write/dominant"],
    }
    flow |= {f"alpha {name}": values for name, values in measured.scales.items()}
    flow |= {f"|g| {name}": values for name, values in measured.gradients.items()}
    if measured.tangent_share is not None:
        flow["tangent"] = measured.tangent_share
    size = f"{len(measured.mix)} connections, {streams} streams"
    head = f"{measured.title}, on {measured.device}; {measured.given}, {size}"
    parts = {"mixing": mixing} if lines["mix/identity_distance"].any() else {}
    parts |= {"streams and learning": flow}
    return "\n\n".join(
        [head, *(f"{name}\n{table('connection', measured.wrapped, part)}" for name, part in parts.items())]
    )


def table(what: str, labels: Sequence[str], columns: Lines) -> str:
    """A line per label of a selection, numbered, under the names of `columns`."""
    names = [what, *columns]
    rows = [
        [f"{index} {labels[index]}", *(number(values[index]) for values in columns.values())]
        for index in selection(len(labels))
    ]
    return columns_text([names, *rows], right=range(1, len(names)))


def number(value: float | np.number) -> str:
    """Three digits, in powers of ten where it is very small or very large; a count as it is; `-` for what is absent."""
    if isinstance(value, np.integer):
        return str(value)
    if not math.isfinite(value):
        return "-" if math.isnan(value) else "inf"
    return f"{value:.3f}" if value == 0 or 1e-2 <= abs(value) < 1e3 else f"{value:.1e}"
