"""Checkpoints survive errors, deaths and damage: what was acknowledged is there, and what is there is true."""

from __future__ import annotations

import os

import pytest
from checkpoint_cases import step_of, store
from run_cases import same, state_of

from mhc_exp.runs.checkpoints import CheckpointStore

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # os.fork on Python 3.12


def test_a_state_comes_back_bit_for_bit(tmp_path):
    kept = CheckpointStore(tmp_path / "c", 2, facts={"config_hash": "abc"})
    state = state_of(7)
    kept.save(7, state, {"seconds": 0.1 + 0.2, "score": None})
    found = kept.newest()
    assert found is not None
    assert (found.step, found.progress, found.facts) == (
        7,
        {"seconds": 0.1 + 0.2, "score": None},
        {"config_hash": "abc"},
    )
    assert same(found.state, state)
    assert found.state.optimizer["step"].shape == ()


def test_there_is_no_newest_checkpoint_before_the_first(tmp_path):
    assert store(tmp_path / "c").newest() is None


def test_only_the_newest_k_stay(tmp_path):
    kept = store(tmp_path)
    for step in range(1, 6):
        kept.save(step, state_of(step), {})
    assert kept.steps() == [4, 5]
    assert sorted(os.listdir(tmp_path)) == ["step_00000004", "step_00000005"]


def test_damaged_checkpoints_do_not_count_towards_the_kept_ones(tmp_path):
    for step in (1, 2):
        store(tmp_path).save(step, state_of(step), {})
    (tmp_path / "step_00000002" / "model.safetensors").write_bytes(b"")
    store(tmp_path).save(3, state_of(3), {})
    assert store(tmp_path).steps() == [1, 3]


def test_saving_a_step_again_keeps_the_valid_and_replaces_the_damaged(tmp_path):
    store(tmp_path).save(1, state_of(1), {})
    store(tmp_path).save(1, state_of(1), {})
    (tmp_path / "step_00000001" / "optimizer.safetensors").unlink()
    reports: list[str] = []
    store(tmp_path, reports=reports).save(1, state_of(1), {})
    assert step_of(store(tmp_path)) == 1
    assert len(reports) == 1
    assert "optimizer.safetensors is missing" in reports[0]
