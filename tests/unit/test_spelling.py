"""A slip of one letter gets the word that was meant."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from mhc_exp.config import vocabulary
from mhc_exp.config.overrides import override_problems
from mhc_exp.config.schema import DISCRIMINATORS
from mhc_exp.config.spelling import distance, nearest

CONTEXT = ["variant=mhc", "dataset=hub"]


@pytest.mark.fault(row=24)
def test_nearly_every_slip_of_one_letter_gets_the_right_suggestion() -> None:
    found = vocabulary.keys(DISCRIMINATORS["variant"][1]["streams"], DISCRIMINATORS["dataset"][1]["hub"])
    generator = random.Random(0)
    slips = [(leaf, slip) for leaf in vocabulary.leaves(found) for slip in one_edit_slips(leaf, generator)]
    slips = [(leaf, slip) for leaf, slip in slips if slip not in found]
    missed = [
        (leaf, slip)
        for leaf, slip in slips
        if f"did you mean '{leaf}'?" not in str(override_problems([*CONTEXT, f"{slip}=1"])[0])
    ]
    assert len(slips) > 250
    assert len(missed) <= 0.1 * len(slips), missed


def one_edit_slips(leaf: str, generator: random.Random) -> Iterator[str]:
    """One insertion, deletion, replacement and swap somewhere in the last word of a dotted key."""
    head, dot, word = leaf.rpartition(".")
    letter, at = generator.choice("abcdefghijklmnopqrstuvwxyz"), generator.randrange(len(word))
    yield f"{head}{dot}{word[:at]}{letter}{word[at:]}"
    yield f"{head}{dot}{word[:at]}{letter}{word[at + 1 :]}"
    if len(word) > 1:
        yield f"{head}{dot}{word[:at]}{word[at + 1 :]}"
        at = max(1, at)
        yield f"{head}{dot}{word[: at - 1]}{word[at]}{word[at - 1]}{word[at + 1 :]}"


@pytest.mark.parametrize(
    ("one", "other", "edits"), [("", "ab", 2), ("depth", "depht", 1), ("ca", "abc", 3), ("a", "a", 0)]
)
def test_distance_counts_a_swap_of_neighbours_once(one: str, other: str, edits: int) -> None:
    assert distance(one, other) == distance(other, one) == edits


def test_nothing_is_suggested_for_a_word_like_no_other() -> None:
    assert nearest("zebra", vocabulary.keys()) is None
    assert nearest("lt", ["lr", "clip"]) == "lr"
    assert nearest("Variant", ["variant", "tracking"]) == "variant"
