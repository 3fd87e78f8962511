"""Charts with logits to put into them: what the tests of charts share."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import strategies as st

from mhc_exp.config.compose import compose
from mhc_exp.topology import reference
from mhc_exp.topology.charts import CHARTS

SEEDS = st.integers(0, 2**32 - 1)
MIX = compose(["variant=mhc"]).variant.mix
EXACT = [name for name, chart in CHARTS.items() if chart.doubly_stochastic and name not in ("sinkhorn", "identity")]


def spec(chart, **changes):
    return dataclasses.replace(MIX, chart=chart, **changes)


def draw(chart, seed, streams=4, count=8, spread=1.0, expansion=2):
    size = CHARTS[chart].logits(streams, expansion)
    return np.random.default_rng(seed).normal(scale=spread, size=(count, size))


def matrices(chart, seed, streams=4, spread=1.0, **changes):
    return reference.chart(draw(chart, seed, streams, spread=spread), streams, spec(chart, **changes))
