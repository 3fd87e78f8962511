"""Wirings that repeat the middle blocks inside hyper-connections (Hyperloop Transformers, arXiv:2604.21254).

`x` is the residual state [B, T, C] before and after the loops, `streams` [B, T, S, C] between them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mhc_exp.config.variants import Looped
from mhc_exp.topology.layout import mixing_share
from mhc_exp.topology.looped import connection, middle
from mhc_exp.topology.reference import streams as hyper
from mhc_exp.topology.reference.arithmetic import Parameters, Sublayer, below, with_residuals
from mhc_exp.topology.reference.expansion import expand


def forward(x0: np.ndarray, sublayers: Sequence[Sublayer], parameters: Parameters, variant: Looped) -> np.ndarray:
    """y_(l+1) = H_res y_l + H_post (F(H_pre y_l) + e_l) in every loop l (section 3), F the same blocks in all of them.

    y_0 are copies of what the begin blocks put out; the end blocks read the mean of the last streams.
    """
    first, stop = middle(variant, len(sublayers) // 2)
    begin, looped, end = (
        with_residuals(part)
        for part in (sublayers[: 2 * first], sublayers[2 * first : 2 * stop], sublayers[2 * stop :])
    )
    streams = expand(begin(x0), variant.expand, variant.streams, parameters)
    share = mixing_share(variant.mix, variant.loops)
    for index in range(variant.loops):
        own = below(f"connections.{index}.", parameters)
        read, write, mix = hyper.coefficients(streams, own, connection(variant), share)
        y = looped(hyper.contract(streams, read))
        if variant.loop_positions == "learned":
            y = y + parameters["loop_positions"][index]
        streams = np.einsum("...ij,...jc->...ic", mix, streams) + write[..., None] * y[..., None, :]
    return end(streams.mean(axis=-2))
