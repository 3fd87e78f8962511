"""What both backends report of a wiring: reads of earlier outputs as in numpy, gradients as in training, no traces."""

from __future__ import annotations

import cases
import numpy as np
import pytest

from mhc_exp.body import reference
from mhc_exp.config.history_variants import HISTORY_FAMILIES
from mhc_exp.topology import families, learning
from mhc_exp.topology.diagnosis import Diagnosis, HistoryDiagnosis, per_connection, summarise
from mhc_exp.topology.reference import FORWARD
from mhc_exp.topology.reference.arithmetic import below

NAMES = {"torch": "cpu", "mlx": "mlx"}
HISTORIES = [name for name in cases.WIRINGS if cases.tiny(cases.WIRINGS[name]).variant.family in HISTORY_FAMILIES]
REPORTING = [name for name in cases.SHIPPED if cases.tiny(cases.WIRINGS[name]).variant.family != "residual"]
DEPTH = {name: [] if any("depth=" in word for word in cases.WIRINGS[name]) else ["depth=3"] for name in cases.WIRINGS}


def model(wiring, backend, *more):
    config = cases.tiny([*cases.WIRINGS[wiring], *DEPTH[wiring], *more], NAMES[backend])
    return config, cases.with_weights(cases.TRAINERS[backend](config), cases.perturbed(config))


def reference_weights(config, batch):
    """Weights [W, sources, N] of every read, from the specification in float64."""
    exact = {name: value.astype(np.float64) for name, value in cases.perturbed(config).items()}
    x0 = exact["embed.weight"][batch.inputs] + exact["positions.weight"][: batch.inputs.shape[1]]
    seen = []
    sublayers, own = reference.sublayers(exact, config), below("topology.", exact)
    FORWARD[config.variant.family](x0, sublayers, own, config.variant, seen.append)
    return seen


@pytest.mark.parametrize("backend", cases.TRAINERS)
@pytest.mark.parametrize("wiring", HISTORIES)
def test_the_weights_of_every_read_equal_the_numpy_reference(wiring, backend):
    config, trainer = model(wiring, backend)
    found, expected = trainer.diagnose(cases.batch()), reference_weights(config, cases.batch())
    assert isinstance(found, HistoryDiagnosis)
    assert len(found.weights) == len(expected) == len(found.reads)
    for read, weights, exact in zip(found.reads, found.weights, expected, strict=True):
        assert weights.shape == exact.shape == (len(exact), len(read.sources), exact.shape[2])
        np.testing.assert_allclose(weights, exact, atol=1e-5)


@pytest.mark.parametrize("wiring", HISTORIES)
def test_no_read_reaches_what_is_made_later_and_places_ascend(wiring):
    config = cases.tiny([*cases.WIRINGS[wiring], *DEPTH[wiring]])
    reads = families.reads(config.variant, config.depth)
    assert [read.place for read in reads] == sorted({read.place for read in reads})
    for read in reads:
        assert len(set(read.sources)) == len(read.sources)
        assert min(read.sources) >= 0
        assert max(read.sources) <= read.place <= 2 * config.depth


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["history", "variant.window=2"], {0: (0,), 1: (1, 0), 2: (2, 1), 3: (3, 2), 4: (4, 3), 5: (5, 4)}),
        (["denseformer"], {2: (0, 2), 4: (0, 2, 4), 6: (0, 2, 4, 6)}),
        (["denseformer", "variant.dilation=2", "variant.period=3"], {2: (2,), 4: (4,), 6: (2, 6)}),
        (["attnres"], {place: tuple(range(place + 1)) for place in range(7)}),
        (["block_attnres", "variant.blocks=2"],
         {0: (0,), 1: (0, 1), 2: (0, 2), 3: (0, 3), 4: (0, 3, 4), 5: (0, 3, 5), 6: (0, 3, 6)}),
        (["muddformer"], {2: (0, 2), 4: (0, 2, 4), 6: (0, 2, 4, 6)}),
        (["value_residual"], {0: (0,), 2: (0, 2), 4: (0, 4)}),
        (["deep_cross_attention"], {0: (0,), 2: (0, 2), 4: (0, 2, 4), 6: (0, 2, 4, 6)}),
        (["deep_cross_attention", "variant.last=1"], {0: (0,), 2: (0, 2), 4: (0, 2, 4), 6: (0, 4, 6)}),
    ],
    ids=str,
)  # fmt: skip
def test_where_three_blocks_read_and_what_was_made_where(overrides, expected):
    config = cases.tiny([f"variant={overrides[0]}", *overrides[1:], "depth=3"])
    assert {read.place: read.sources for read in families.reads(config.variant, 3)} == expected


@pytest.mark.parametrize("backend", cases.TRAINERS)
@pytest.mark.parametrize("wiring", REPORTING)
def test_gradient_norms_are_those_of_the_gradient_that_trains(wiring, backend):
    config, trainer = model(wiring, backend)
    found = trainer.diagnose(cases.batch()).gradients
    exact = trainer.gradients(cases.batch())
    count = len(next(iter(found.values())))
    expected = learning.gradient_norms(exact, count, families.parts(config.variant))
    assert list(found) == list(expected)
    assert found
    for part, norms in expected.items():
        np.testing.assert_allclose(found[part], norms, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("wiring", REPORTING)
def test_both_backends_write_the_same_columns(wiring):
    one, other = (model(wiring, backend)[1].diagnose(cases.batch()) for backend in cases.TRAINERS)
    assert type(one) is type(other)
    rows, lines = [summarise(found) for found in (one, other)], [per_connection(found) for found in (one, other)]
    assert list(rows[0]) == list(rows[1])
    assert list(lines[0]) == list(lines[1])
    assert rows[0].keys() & {"history/entropy", "streams/dominant_share"}
    for column in ("alpha/", "grad/", "history/", "streams/"):
        names = [name for name in rows[0] if name.startswith(column) and name != "grad/tangent_share"]
        for name in names:
            assert rows[0][name] == pytest.approx(rows[1][name], rel=1e-3, abs=1e-6), name


@pytest.mark.parametrize("backend", cases.TRAINERS)
@pytest.mark.parametrize(
    ("wiring", "copies", "same_weight"),
    [("mhc", True, True), ("c_mhc", True, True), ("hyperloop", True, True), ("mhc_lss", False, True),
     ("deepseek_v4", True, False), ("deepseek_v41", True, False)],
)  # fmt: skip
def test_nothing_can_follow_the_constraint_where_streams_are_copies(wiring, copies, same_weight, backend):
    """First connection: replicated streams. Last one: every stream is summed with the same weight."""
    _, trainer = model(wiring, backend)
    share = per_connection(trainer.diagnose(cases.batch()))["grad/tangent_share"]
    assert [share[0] < 1e-4, share[-1] < 1e-4] == [copies, same_weight]
    assert min(share[1:-1]) > 1e-3


@pytest.mark.parametrize("backend", cases.TRAINERS)
@pytest.mark.parametrize(("wiring", "has"), [("mhc", True), ("frac", False), ("vwn", False), ("xhc", True)])
def test_only_streams_of_the_same_channels_are_compared(wiring, has, backend):
    found = model(wiring, backend)[1].diagnose(cases.batch())
    assert isinstance(found, Diagnosis)
    assert ("streams/cosine" in summarise(found)) == ("streams/cosine" in per_connection(found)) == has
    assert "streams/dominant_share" in summarise(found)


@pytest.mark.parametrize("backend", cases.TRAINERS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("wiring", ["mhc", "hc", "attnres", "frac", "muddformer"])
def test_training_goes_on_as_if_nobody_had_looked(wiring, dtype, backend):
    _, watched = model(wiring, backend, f"backend.dtype={dtype}", "model.dropout=0.1")
    _, alone = model(wiring, backend, f"backend.dtype={dtype}", "model.dropout=0.1")
    for step in (1, 2):
        watched.diagnose(cases.batch(7))
        for trainer in (watched, alone):
            trainer.step(step, cases.batch(step), 1e-2)
    assert watched.fetch() == alone.fetch()
    found, expected = watched.state().model, alone.state().model
    assert all((found[name] == value).all() for name, value in expected.items())
