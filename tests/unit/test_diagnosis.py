"""Columns of rows and of layers.jsonl that are made of a diagnosis; those of gains are in test_gains.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mhc_exp.topology import gains
from mhc_exp.topology.diagnosis import Diagnosis, HistoryDiagnosis, per_connection, summarise
from mhc_exp.topology.history.reads import Read


def streams(*lengths):
    """A diagnosis of one connection per list of lengths of orthogonal streams, one token, no mixing."""
    count, size = len(lengths), len(lengths[0])
    gram = np.stack([np.diag(np.square(one)) for one in lengths])[:, None].astype(np.float64)
    ones = np.ones((count, 1, size))
    return Diagnosis(np.broadcast_to(np.eye(size), (count, 1, size, size)), ones, ones, gram)


def test_the_dominant_stream_is_the_one_with_the_largest_share_of_all_lengths():
    found = streams([1.0, 1.0, 1.0, 1.0], [6.0, 2.0, 1.0, 1.0], [0.0, 0.0, 5.0, 0.0])
    assert per_connection(found)["streams/dominant_share"] == [0.25, 0.6, 1.0]
    row = summarise(found)
    assert row["streams/dominant_share"] == pytest.approx((0.25 + 0.6 + 1.0) / 3)
    assert row["streams/dominant_share_max"] == 1.0


def test_streams_that_are_all_zero_have_no_dominant_one():
    assert per_connection(streams([0.0, 0.0]))["streams/dominant_share"] == [0.0]
    assert (gains.stream_norms(np.full((1, 1, 2, 2), -1e-9)) == 0).all(), "rounding below zero is no length"


def test_segments_have_no_cosine_and_everything_else():
    whole = streams([1.0, 2.0])
    parts = replace(whole, aligned=False)
    assert summarise(whole).keys() - summarise(parts).keys() == {"streams/cosine"}
    assert per_connection(whole).keys() - per_connection(parts).keys() == {"streams/cosine"}


def test_scales_keep_their_sign_over_depth_and_lose_it_in_a_row():
    found = replace(streams([1.0], [1.0]), scales={"read": np.array([-0.3, 0.1])})
    assert per_connection(found)["alpha/read"] == [-0.3, 0.1]
    assert summarise(found)["alpha/read"] == pytest.approx(0.2)


def test_gradients_of_a_row_are_those_of_all_connections_together():
    norms = {"read": np.array([3.0, 4.0]), "write": np.array([np.nan, 2.0])}
    found = replace(streams([1.0], [1.0]), gradients=norms)
    assert per_connection(found)["grad/write"] == [None, 2.0]
    assert {name: value for name, value in summarise(found).items() if name.startswith("grad/")} == {
        "grad/read": 5.0, "grad/write": 2.0,
    }  # fmt: skip


def test_a_gradient_that_is_not_finite_is_no_column_of_a_row():
    norms = {"read": np.array([np.inf, 1.0]), "mix": np.array([1.0, 1.0])}
    found = replace(streams([1.0, 1.0]), gradients=norms, mix_gradient=np.full((1, 1, 2, 2), np.nan))
    assert [name for name in summarise(found) if name.startswith("grad/")] == ["grad/mix"]
    assert per_connection(found)["grad/tangent_share"] == [None]


def test_the_tangent_share_of_a_row_weighs_connections_by_their_gradient():
    tangent = np.array([[1.0, -1.0], [-1.0, 1.0]])  # norm 2, zero sums
    gain = np.full((2, 2), 5.0)  # norm 10, no tangent part
    found = replace(streams([1.0, 1.0], [1.0, 1.0]), mix_gradient=np.stack([tangent, gain])[:, None])
    assert per_connection(found)["grad/tangent_share"] == [1.0, 0.0]
    assert summarise(found)["grad/tangent_share"] == pytest.approx(2 / np.sqrt(104))
    silent = replace(found, mix_gradient=np.zeros((2, 1, 2, 2)))
    assert "grad/tangent_share" not in summarise(silent)
    assert per_connection(silent)["grad/tangent_share"] == [None, None]


# --- reads of earlier outputs ----------------------------------------------------------------------------------------


def history(*weights):
    """Reads at every place from 0 on, of everything made so far."""
    reads = [Read(place, tuple(range(place + 1))) for place in range(len(weights))]
    return HistoryDiagnosis(reads, [np.array(one, float)[None, :, None] for one in weights])


def test_entropy_is_zero_for_one_source_and_one_for_all_alike():
    columns = per_connection(history([1.0], [0.0, -2.0], [0.3, 0.3, 0.3], [1.0, 1.0, 0.0, 0.0]))
    assert columns["history/entropy"] == [None, 0.0, 1.0, 0.5]
    assert columns["history/largest"] == [1.0, 1.0, pytest.approx(1 / 3, rel=1e-5), 0.5]


def test_distance_counts_sublayers_between_making_and_reading():
    columns = per_connection(history([1.0], [0.0, 3.0], [1.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 3.0]))
    assert columns["history/mean_distance"] == [0.0, 0.0, 2.0, 0.75]


def test_weights_stand_under_the_place_where_their_source_was_made_with_their_sign():
    reads = [Read(2, (0, 2)), Read(4, (4, 0))]
    weights = [np.array([[[1.0, 3.0], [-1.0, -1.0]]]), np.array([[[0.5]], [[0.25]]]).reshape(1, 2, 1)]
    columns = per_connection(HistoryDiagnosis(reads, weights))
    places = {name: line for name, line in columns.items() if "weight" in name}
    assert places == {
        "history/weight_0": [2.0, 0.25], "history/weight_2": [-1.0, None], "history/weight_4": [None, 0.5],
    }  # fmt: skip


def test_ways_and_tokens_are_averaged_after_each_has_its_own_entropy():
    """Two ways that read one source each: together they are even, alone they are sure."""
    weights = np.array([[[1.0], [0.0]], [[0.0], [1.0]]])
    columns = per_connection(HistoryDiagnosis([Read(1, (0, 1))], [weights]))
    assert columns["history/entropy"] == [0.0]
    assert columns["history/weight_0"] == columns["history/weight_1"] == [0.5]


def test_a_row_is_the_mean_over_reads_that_have_a_choice():
    row = summarise(history([1.0], [1.0, 1.0], [0.0, 0.0, 1.0]))
    assert row == {
        "history/entropy": pytest.approx(0.5),
        "history/mean_distance": pytest.approx(0.25),
        "history/largest": pytest.approx(0.75),
    }
    assert summarise(history([1.0])) == {}
    assert summarise(history([1.0], [np.nan, 1.0])) == {}
