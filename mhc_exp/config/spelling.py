"""Did you mean: the word a person most likely wanted."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate closest to `word`, or None if nothing is close.

    Fewest edits first (one in a short word, up to a third of a long one), so that two-letter keys such as `lr` are
    found too; then difflib, which forgives more where long parts agree. Groups that both have in common (`model.` in
    `model.widht`) prove nothing and are left out.
    """
    pairs = [(*_without_common_groups(word.casefold(), candidate.casefold()), candidate) for candidate in candidates]
    close = [(edits, one, other, name) for one, other, name in pairs if (edits := distance(one, other)) <= _slips(one)]
    if close:
        return min(close, key=lambda found: (found[0], -_similarity(found[1], found[2])))[-1]
    alike = [(similarity, name) for one, other, name in pairs if (similarity := _similarity(one, other)) >= 0.7]
    return max(alike)[-1] if alike else None


def _slips(word: str) -> int:
    return max(1, len(word) // 3)


def _similarity(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def _without_common_groups(one: str, other: str) -> tuple[str, str]:
    while "." in one and "." in other and one.split(".")[0] == other.split(".")[0]:
        one, other = one.partition(".")[2], other.partition(".")[2]
    return one, other


def suggest(word: str, candidates: Iterable[str]) -> str:
    """`; did you mean 'depth'?` for the closest candidate, or nothing."""
    close = nearest(word, candidates)
    return f"; did you mean '{close}'?" if close else ""


def distance(one: str, other: str) -> int:
    """Edits between two words: insert, delete, replace, or swap of neighbours (optimal string alignment)."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, start=1):
        before, last, row = row, before, [i]
        for j, wanted in enumerate(other, start=1):
            edits = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                edits = min(edits, last[j - 2] + 1)
            row.append(edits)
    return row[-1]
