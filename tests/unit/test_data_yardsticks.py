"""Yardsticks: bits per byte of a bigram table, xz and bz2 on the held-out text."""

import bz2
import lzma
import math

import numpy as np
import pytest
from data_cases import GENERATED, task_of, text_dataset

from mhc_exp.data.yardsticks import PSEUDO_COUNT, bigram, yardsticks


def test_bigram_matches_a_count_by_hand():
    # training "abababac": a->b 3, a->c 1, b->a 3, nothing after c. Scored "abac": a->b, b->a, a->c
    after_a, after_b = 4 + 256 * PSEUDO_COUNT, 3 + 256 * PSEUDO_COUNT
    chances = [(3 + PSEUDO_COUNT) / after_a, (3 + PSEUDO_COUNT) / after_b, (1 + PSEUDO_COUNT) / after_a]
    assert bigram(b"abababac", b"abac") == pytest.approx(-sum(map(math.log2, chances)) / 3, abs=1e-12)


def test_bigram_of_random_bytes_costs_eight_bits_and_of_unseen_text_too():
    noise = np.random.default_rng(0).integers(0, 256, 10**7).astype(np.uint8).tobytes()
    assert bigram(noise, noise[: 10**6][::-1]) == pytest.approx(8, abs=0.02)
    assert bigram(b"a", b"xyz") == pytest.approx(8, abs=1e-12)


def test_bigram_reaches_the_entropy_of_a_markov_chain():
    steps = (np.random.default_rng(1).random(400_000) < 0.25).cumsum() % 7  # forward with probability 1/4, else stay
    text = steps.astype(np.uint8).tobytes()
    entropy = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    assert bigram(text[:300_000], text[300_000:]) == pytest.approx(entropy, abs=0.01)


def test_counting_in_chunks_loses_no_pair(monkeypatch):
    text = bytes(range(200)) * 3
    whole = bigram(text, text)
    monkeypatch.setattr("mhc_exp.data.yardsticks._CHUNK", 7)
    assert bigram(text, text) == whole


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_yardsticks_score_the_held_out_bytes_whatever_the_tokenizer(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("".join(f"{i} squared is {i * i}\n" for i in range(3000)))
    task = task_of(text_dataset(tmp_path / "a.txt", tokenizer))
    held_out = task.parts.held_out  # type: ignore[attr-defined]
    measured = yardsticks(task)
    assert measured is not None
    assert measured["xz"] == 8 * len(lzma.compress(held_out, preset=6)) / len(held_out)
    assert measured["bz2"] == 8 * len(bz2.compress(held_out, 9)) / len(held_out)
    assert 1 < measured["bigram"] < 5


def test_only_the_stated_share_of_a_long_held_out_part_is_scored(tmp_path, monkeypatch):
    monkeypatch.setattr("mhc_exp.data.yardsticks.SCORED", 2000)
    (tmp_path / "a.txt").write_text("abcd\n" * 1600 + "xyz\n" * 1000)
    task = task_of(text_dataset(tmp_path / "a.txt", percent=50))
    held_out = task.parts.held_out[:2000]  # type: ignore[attr-defined]
    measured = yardsticks(task)
    assert measured is not None
    assert measured["bz2"] == 8 * len(bz2.compress(held_out, 9)) / 2000


@pytest.mark.parametrize("kind", GENERATED)
def test_tasks_without_text_have_no_yardsticks(kind):
    assert yardsticks(task_of(GENERATED[kind])) is None
