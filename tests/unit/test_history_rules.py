"""What wirings with a history read and carry, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from history_cases import DEPTH, VOCABULARY, WIDTH, logits, parameters, tiny, tokens
from hypothesis import given, settings
from hypothesis import strategies as st

from mhc_exp.body import reference as body
from mhc_exp.config.checks import check
from mhc_exp.config.compose import compose
from mhc_exp.config.history_variants import AttnRes, DenseFormer, History
from mhc_exp.data.task import Batch
from mhc_exp.topology import families
from mhc_exp.topology.catalogue.history import ENTRIES
from mhc_exp.topology.history import attnres, denseformer, mixing
from mhc_exp.topology.reference import forward
from mhc_exp.topology.reference.history.deep_cross_attention import visible
from mhc_exp.topology.reference.history.mixing import mixing_weights

NAMES = [entry.name for entry in ENTRIES]


# -- what is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dilation", "period", "expected"),
    [
        (1, 1, [[0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4]]),
        (2, 1, [[1], [0, 2], [1, 3], [0, 2, 4]]),
        (1, 2, [[], [0, 1, 2], [], [0, 1, 2, 3, 4]]),
        (3, 2, [[], [2], [], [1, 4]]),
    ],
)
def test_denseformer_averages_over_the_papers_index_sets(dilation, period, expected):
    variant = DenseFormer("d", "denseformer", dilation, period)
    assert [list(indices) for indices in denseformer.sources(variant, 4)] == expected


def test_block_attention_residuals_read_the_papers_sources():
    full, blocks = AttnRes("a", "attnres", None, 1), AttnRes("a", "attnres", 3, 1)
    assert attnres.sources(full, 3) == [1, 2, 3, 4, 5, 6, 7]
    assert attnres.sources(blocks, 3) == [1, 2, 2, 3, 3, 4, 4]


def test_k_dca_keeps_the_sum_of_what_it_sees():
    outputs = list(np.random.default_rng(0).normal(size=(6, 2)))
    seen = visible(outputs, 2)
    assert len(seen) == 4
    assert (seen[0] == outputs[0]).all()
    np.testing.assert_allclose(seen[1], outputs[1] + outputs[2] + outputs[3])
    assert len(visible(outputs[:4], 2)) == 4
    np.testing.assert_allclose(visible(outputs[:4], 2), outputs[:4])


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(2, 6), floor=st.floats(0.0, 0.9))
@settings(max_examples=30, deadline=None)
def test_mixing_weights_keep_their_promise_wherever_training_leads(seed, count, floor):
    random = np.random.default_rng(seed)
    vector, square = random.normal(size=count), random.normal(size=(count, count))

    def weights(constraint, logits):
        return mixing_weights(logits, History("h", "history", 6, constraint, floor, 200, 0.98))

    for found in (weights("simplex", vector), weights("identity_preserving", vector)):
        assert found.shape == (1, count)
        assert found.sum() == pytest.approx(1)
        assert found.min() >= 0
    assert weights("identity_preserving", vector)[0, 0] >= floor
    matrix = weights("doubly_stochastic", square)
    np.testing.assert_allclose(matrix.sum(axis=0), 1, atol=1e-3)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)


@pytest.mark.parametrize("constraint", ["simplex", "identity_preserving", "doubly_stochastic"])
def test_the_newest_state_starts_with_its_stated_weight(constraint):
    variant = tiny("variant=history", f"variant.constraint={constraint}", "variant.newest=0.9").variant
    for value in mixing.values(variant, WIDTH, DEPTH, 0).values():
        matrix = mixing_weights(value.astype(np.float64), variant)
        np.testing.assert_allclose(np.diag(matrix), 0.9, rtol=1e-6)
        np.testing.assert_allclose(matrix.sum(axis=0)[0], 1 if constraint == "doubly_stochastic" else 0.9, rtol=1e-6)


def test_every_row_of_the_doubly_stochastic_matrix_acts():
    """Moving any one row of logits, at the second full history of a deep enough model, changes the output."""
    config = tiny("variant=history", "variant.constraint=doubly_stochastic", "variant.window=3")
    values = parameters(config, 0.5)
    before = logits(config, values, tokens())
    for row in range(3):
        moved = values["topology.connections.3.logits"].copy()
        moved[row] += np.array([1.0, -1.0, 0.5])
        after = logits(config, values | {"topology.connections.3.logits": moved}, tokens())
        assert np.abs(after - before).max() > 1e-6


# -- every wiring ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_no_token_sees_a_later_one(name):
    config = tiny(f"variant={name}")
    values = parameters(config, 0.5)
    one = tokens()
    other = one.copy()
    other[:, 4:] = (other[:, 4:] + 1) % VOCABULARY
    before, after = logits(config, values, one), logits(config, values, other)
    np.testing.assert_allclose(before[:, :4], after[:, :4], atol=1e-12)
    assert np.abs(before[:, 4:] - after[:, 4:]).max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_every_sublayer_is_called_once_and_in_order(name):
    """A late-bound loop variable would call the last one for all (depth 3, so that the middle is no end)."""
    config = tiny(f"variant={name}")
    calls = []
    sublayers = [Recorded(one, index, calls) for index, one in enumerate(body.sublayers(parameters(config), config))]
    x0 = np.random.default_rng(0).normal(size=(2, 6, WIDTH))
    forward(x0, sublayers, parameters(config), config.variant)
    assert calls == list(range(2 * DEPTH))


class Recorded:
    """A sublayer that notes when its branch runs."""

    def __init__(self, sublayer, index, calls):
        self.sublayer, self.index, self.calls = sublayer, index, calls

    def __getattr__(self, name):
        return getattr(self.sublayer, name)

    def __call__(self, x):
        self.calls.append(self.index)
        return self.sublayer(x)

    def attend(self, q, k, v):
        self.calls.append(self.index)
        return self.sublayer.attend(q, k, v)


@pytest.mark.parametrize(
    ("name", "kept"),
    [("history", 4), ("denseformer", 7), ("attnres", 13), ("block_attnres", 7), ("mhar", 13), ("muddformer", 7),
     ("value_residual", 2), ("deep_cross_attention", 7)],
)  # fmt: skip
def test_what_is_carried_from_sublayer_to_sublayer(name, kept):
    variant = compose([f"variant={name}"]).variant
    assert families.kept(variant, 6) == kept
    assert families.flops_per_token(variant, 64, 6) > 0


def test_a_period_alone_lets_denseformer_forget_nothing_but_with_a_dilation_it_does():
    def kept(dilation, period):
        return denseformer.kept(DenseFormer("d", "denseformer", dilation, period), 12)

    assert kept(1, 1) == kept(1, 12) == 13
    assert kept(4, 4) == 4


@pytest.mark.parametrize(
    ("overrides", "key", "remedy"),
    [
        (["variant=mhar", "variant.heads=3"], "variant.heads", "variant.heads=2"),
        (["variant=denseformer", "variant.period=4"], "variant.period", "variant.period=3"),
        (["variant=denseformer", "variant.dilation=9"], "variant.dilation", "variant.dilation=3"),
        (["variant=value_residual", "variant.start=4"], "variant.start", "variant.start=3"),
        (["variant=history", "variant.newest=1"], "variant.newest", "variant.newest=0.98"),
        (["variant=history", "variant.constraint=identity_preserving", "variant.newest=0.05"], "variant.newest",
         "above variant.floor=0.1"),
        (["variant=history", "variant.constraint=identity_preserving", "variant.floor=1"], "variant.newest",
         "variant.floor=0.1"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_with_what_to_type(overrides, key, remedy):
    (problem,) = [problem for problem in check(tiny(*overrides)) if problem.path.startswith("variant")]
    assert problem.path == key
    assert remedy in problem.message


def test_the_reference_takes_any_batch():
    """Two batches of different sizes give what each gives alone: nothing is kept between calls."""
    for name in NAMES:
        config = tiny(f"variant={name}")
        values = parameters(config, 0.5)
        batch = tokens(sequences=3)
        together = logits(config, values, batch)
        np.testing.assert_allclose(logits(config, values, batch[:1]), together[:1], atol=1e-12)
        assert np.isfinite(body.loss(values, config, Batch(batch, batch, np.ones(batch.shape, bool))))
