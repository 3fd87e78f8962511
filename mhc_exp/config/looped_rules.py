"""Rules that span the keys of a `looped` wiring: which blocks are left to repeat, and whether streams can part."""

from __future__ import annotations

from collections.abc import Iterator

from mhc_exp.config.build import Problem
from mhc_exp.config.variants import Looped
from mhc_exp.topology.init import PRESETS
from mhc_exp.topology.looped import middle


def looped_problems(variant: Looped, depth: int) -> Iterator[Problem]:
    """What is wrong if no block is left to repeat, or if nothing would ever tell the streams apart."""
    yield from _repeated(variant, depth)
    yield from _copies(variant)


def _repeated(variant: Looped, depth: int) -> Iterator[Problem]:
    first, stop = middle(variant, depth)
    if first < stop:
        return
    end = depth - stop
    yield Problem(
        "variant.begin" if first >= end else "variant.end",
        f"{first} blocks before and {end} after the loop leave none of depth={depth} to repeat; type "
        f"depth={first + end + 1} or more, or variant.begin=null variant.end=null (a quarter of the blocks each)",
    )


def _copies(variant: Looped) -> Iterator[Problem]:
    """A mean follows the only loop, so copies get equal gradients (with more loops, the next read may differ)."""
    preset = PRESETS[variant.init]
    random = variant.coefficients == "dynamic" and preset.weight_std > 0
    if variant.loops > 1 or variant.streams == 1 or preset.separates or random or variant.expand != "replicate":
        return
    yield Problem(
        "variant.init",
        f"{variant.init} starts {variant.streams} streams as copies, and the mean after a single loop would keep them "
        "so for ever; type variant.init=zero_mix (also: lite_repo), variant.expand=learned_scale, variant.streams=1, "
        "or variant.loops=2",
    )
