"""The random numbers everything else is derived from."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mhc_exp import rng

KNOWN_ANSWERS = [  # Random123's kat_vectors, philox4x32 with 10 rounds: counter, key, result
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers_of_random123(counter, key, expected):
    assert tuple(int(word) for word in rng.philox4x32(counter, key)) == expected


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 3000), seed=st.integers(0, 2**64 - 1))
def test_permutation_is_a_bijection_of_any_size(size, seed):
    images = rng.permutation(np.arange(size), size, seed)
    assert np.array_equal(np.sort(images), np.arange(size))


@settings(max_examples=30, deadline=None)
@given(size=st.integers(2, 10**12), seed=st.integers(0, 2**64 - 1), data=st.data())
def test_permutation_of_a_large_range_keeps_distinct_positions_distinct(size, seed, data):
    position = st.integers(0, size - 1)
    positions = np.array(data.draw(st.lists(position, min_size=1, max_size=50, unique=True)))
    images = rng.permutation(positions, size, seed)
    assert len(np.unique(images)) == len(positions)
    assert images.min() >= 0
    assert images.max() < size


def test_permutations_of_different_seeds_differ_and_look_shuffled():
    a, b = (rng.permutation(np.arange(1000), 1000, seed) for seed in (1, 2))
    assert np.mean(a == b) < 0.02
    assert abs(np.corrcoef(np.arange(1000), a)[0, 1]) < 0.1


@given(start=st.integers(0, 2**34), count=st.integers(0, 40), skip=st.integers(0, 20))
def test_words_do_not_depend_on_where_reading_starts(start, count, skip):
    whole = rng.words(5, 7, start, skip + count)
    assert np.array_equal(whole[skip:], rng.words(5, 7, start + skip, count))


def test_words_of_different_seeds_and_streams_are_unrelated():
    reference = rng.words(1, 2, 0, 1000)
    others = [rng.words(2, 2, 0, 1000), rng.words(1, 3, 0, 1000), rng.words(1, 2 + (1 << 32), 0, 1000)]
    assert all(np.mean(reference == other) < 0.01 for other in others)


@given(limit=st.integers(1, 2**32))
def test_below_stays_below_its_limit(limit):
    draws = np.array([0, 1, 2**31, 2**32 - 1], np.uint64)
    values = rng.below(draws, limit)
    assert values[0] == 0
    assert values[-1] == limit - 1
    assert np.all(np.diff(values) >= 0)
