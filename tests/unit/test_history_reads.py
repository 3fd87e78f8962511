"""Reads of earlier outputs in numpy: what runs on from each of them, found by changing its weights."""

from __future__ import annotations

import numpy as np
import pytest

from mhc_exp.body import reference as body
from mhc_exp.body.parameters import initial_parameters, is_connection
from mhc_exp.config.compose import compose
from mhc_exp.inspection.history import label
from mhc_exp.topology import families
from mhc_exp.topology.catalogue.history import ENTRIES
from mhc_exp.topology.reference import forward

DEPTH, WIDTH = 3, 8
TINY = [f"depth={DEPTH}", f"model.width={WIDTH}", "model.heads=2", "model.d_ff=12", "model.seq_len=6"]
CASES = [[f"variant={entry.name}"] for entry in ENTRIES]
CASES += [["variant=history", "variant.constraint=doubly_stochastic"], ["variant=denseformer", "variant.period=3"]]


class Heard:
    """A sublayer that notes what it puts out."""

    def __init__(self, sublayer, outputs):
        self.sublayer, self.outputs = sublayer, outputs

    def __getattr__(self, name):
        return getattr(self.sublayer, name)

    def __call__(self, x):
        self.outputs.append(self.sublayer(x))
        return self.outputs[-1]

    def attend(self, q, k, v):
        self.outputs.append(self.sublayer.attend(q, k, v))
        return self.outputs[-1]


def outputs(config, values):
    """Of every sublayer in order, and what the head is given."""
    found = []
    x0 = np.random.default_rng(0).normal(size=(2, 6, WIDTH))
    sublayers = [Heard(sublayer, found) for sublayer in body.sublayers(values, config)]
    last = forward(x0, sublayers, values, config.variant)
    return [*found, last]


@pytest.mark.parametrize("words", CASES, ids=" ".join)
def test_the_reader_of_a_read_is_the_first_to_notice_that_its_weights_changed(words):
    config = compose([*TINY, *words])
    reads = families.reads(config.variant, DEPTH)
    assert reads is not None
    random = np.random.default_rng(1)
    values = {
        name: value + (random.normal(size=value.shape) if is_connection(name) else 0.0)
        for name, value in initial_parameters(config, 13).items()
    }
    before, tried = outputs(config, values), 0
    for index, read in enumerate(reads):
        own = [name for name in values if name.startswith(f"topology.connections.{index}.")]
        changed = values | {name: random.normal(size=values[name].shape) for name in own}
        after = outputs(config, changed)
        noticed = [at for at, (one, other) in enumerate(zip(before, after, strict=True)) if (one != other).any()]
        assert noticed[:1] == ([read.reader] if own else [])
        tried += bool(own)
    assert tried


def test_readers_are_named_by_block_and_the_last_is_the_head():
    assert [label(reader, 4) for reader in range(5)] == ["attention 0", "mlp 0", "attention 1", "mlp 1", "head"]
