"""Rules that span the keys of a `segments` wiring: how the width may be split."""

from __future__ import annotations

from collections.abc import Iterator

from mhc_exp.config.build import Problem
from mhc_exp.config.variants import Segments


def segment_problems(variant: Segments, width: int) -> Iterator[Problem]:
    """Everything wrong with the split of a body of this width."""
    segments, fractions = variant.segments, variant.fractions
    if width % fractions:
        divisors = [number for number in range(1, width + 1) if width % number == 0 and number <= segments]
        yield Problem(
            "variant.fractions",
            f"must divide the width of the body, {width}, got {fractions}; type variant.fractions={divisors[-1]}"
            f"{_also(divisors[:-1])}",
        )
    if segments < fractions:
        yield Problem(
            "variant.segments",
            f"a sublayer reads {fractions} segments and there are {segments}; type variant.segments={fractions} "
            f"(no wider than the body) or variant.segments={2 * fractions} (twice as wide)",
        )
    elif variant.reduce_norm == "group" and segments % fractions:
        yield Problem(
            "variant.reduce_norm",
            f"group norms {fractions} segments at a time, which {segments} cannot be split into; type "
            f"variant.reduce_norm=none, or variant.segments={(segments // fractions + 1) * fractions}",
        )


def _also(numbers: list[int]) -> str:
    return f" (also: {', '.join(map(str, numbers))})" if numbers else ""
