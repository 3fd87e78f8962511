"""Windows cover a stream exactly once per epoch, and held-out text stays held out."""

import numpy as np
import pytest
from data_cases import task_of, text_dataset

from mhc_exp.data.windows import ShuffledOrder, WindowedBatches, Windows


@pytest.mark.parametrize(("windows", "batch_size"), [(7, 3), (100, 12), (100, 100), (5000, 64), (2, 9)])
def test_an_epoch_visits_every_window_once_across_batch_borders(windows, batch_size):
    order = ShuffledOrder(windows, seed=3)
    steps = -(-4 * windows // batch_size)
    visited = np.concatenate([order(np.arange(s * batch_size, (s + 1) * batch_size)) for s in range(steps)])
    epochs = visited[: 4 * windows].reshape(4, windows)
    assert np.array_equal(np.sort(epochs, axis=1), np.tile(np.arange(windows), (4, 1)))
    if windows > 2:
        assert not np.array_equal(epochs[0], epochs[1]), "a new order every epoch"


def test_every_token_but_the_first_is_a_target_exactly_once():
    windows = Windows([np.arange(100, 100 + 61)], 6)  # 61 = 10 * 6 + 1
    batch = windows.take(np.arange(windows.count))
    assert windows.count == 10
    assert np.array_equal(batch.targets.ravel(), np.arange(101, 161))
    assert np.array_equal(batch.inputs.ravel(), np.arange(100, 160))


@pytest.mark.parametrize(("length", "expected"), [(0, 0), (1, 0), (6, 0), (7, 1), (12, 1), (13, 2)])
def test_a_window_needs_one_token_more_than_its_length(length, expected):
    assert Windows([np.zeros(length, np.uint8)], 6).count == expected


def test_windows_do_not_cross_from_one_shard_into_the_next():
    shards = [np.arange(0, 50), np.arange(1000, 1003), np.arange(2000, 2031)]
    windows = Windows(shards, 10)
    batch = windows.take(np.array([6, 0, 3, 5, 4]))
    assert windows.count == 4 + 0 + 3
    assert batch.inputs[:, 0].tolist() == [2020, 0, 30, 2010, 2000]
    assert np.all(batch.targets - batch.inputs == 1)


def test_validation_is_spread_evenly_without_repetition():
    held_out = Windows([np.arange(1001)], 10)
    batches = WindowedBatches(Windows([np.arange(100)], 10), held_out, seed=0).validation(2, 5)
    assert [batch.inputs[:, 0].tolist() for batch in batches] == [[0, 100, 200, 300, 400], [500, 600, 700, 800, 900]]
    assert all(batch.mask.all() for batch in batches)


def test_validation_of_a_small_part_scores_every_window_once():
    held_out = Windows([np.arange(71)], 10)
    batches = WindowedBatches(Windows([np.arange(100)], 10), held_out, seed=0).validation(8, 4)
    assert [batch.inputs.shape for batch in batches] == [(4, 10), (4, 10)]
    scored = np.concatenate([batch.targets[batch.mask] for batch in batches])
    assert np.array_equal(scored, np.arange(1, 71))


def test_training_never_shows_a_held_out_document(tmp_path):
    for number in range(40):  # every file is one letter of a 40-letter alphabet
        (tmp_path / f"{number}.txt").write_bytes(bytes([48 + number]) * (150 + 10 * number))
    task = task_of(text_dataset(tmp_path), seq_len=8)
    trained, held_out = set(), set()
    for step in range(-(-task.training.count // 16)):  # type: ignore[attr-defined]
        trained |= set(task.batch(step, 16).inputs.ravel().tolist())
    for batch in task.validation(10**4, 16):
        held_out |= set(batch.inputs[batch.mask].tolist()) | set(batch.targets[batch.mask].tolist())
    newline = {10}
    assert trained & held_out == newline
    assert len(trained | held_out) == 41
    share = task.identity()["held_out_bytes"] / task.identity()["bytes"]
    assert 0.1 < share < 0.3
