"""Interventions as a person types them, and as a table names them."""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Callable

import numpy as np

from mhc_exp.topology.interventions import Intervention, Kind, Window


def window(word: str) -> Window:
    """`A:B`, `A:`, `:B`, `:` or `K`. Raises ArgumentTypeError."""
    if word.isdecimal():
        return Window(int(word), int(word) + 1)
    found = re.fullmatch(r"(\d*):(\d*)", word)
    if not found:
        raise argparse.ArgumentTypeError(
            f"{word!r} names no connections; type A:B (A up to but not including B, from 0), A:, :B or one number K"
        )
    start, stop = (int(part) if part else None for part in found.groups())
    return Window(start, stop)


def ablate(word: str) -> Intervention:
    """`STREAM` or `STREAM@A:B`. Raises ArgumentTypeError."""
    stream, at, where = word.partition("@")
    if not stream.isdecimal():
        raise argparse.ArgumentTypeError(f"{word!r} names no stream; type its number, from 0, such as 2 or 2@0:6")
    return Intervention("ablate", window(where) if at else Window(), stream=int(stream))


def permute(word: str) -> Intervention:
    """`1,0,2,3` or `1,0,2,3@A:B`. Raises ArgumentTypeError."""
    order, at, where = word.partition("@")
    if not re.fullmatch(r"\d+(,\d+)*", order):
        raise argparse.ArgumentTypeError(f"{word!r} is no order of streams; type each once, such as 1,0,2,3 or 1,0@5")
    return Intervention("permute", window(where) if at else Window(), order=tuple(map(int, order.split(","))))


def scan(count: int, windows: int) -> list[Intervention]:
    """Identity in `windows` windows (or `count`, if that is less) that follow each other and cover everything."""
    edges = [round(edge) for edge in np.linspace(0, count, min(windows, count) + 1)]
    return [Intervention("identity", Window(*pair)) for pair in itertools.pairwise(edges)]


def on_mix(kind: Kind) -> Callable[[str], Intervention]:
    """What reads the window of a change of H_res."""
    return lambda word: Intervention(kind, window(word))


def positive(word: str) -> int:
    """How many there shall be. Raises ArgumentTypeError."""
    if not word.isdecimal() or int(word) == 0:
        raise argparse.ArgumentTypeError(f"{word!r} is no number to count with; type 1 or more, or leave it out")
    return int(word)


def named(change: Intervention | None) -> tuple[str, str]:
    """What is done, and at which connections, in words."""
    if change is None:
        return "nothing", ""
    start, stop = change.window.start, change.window.stop
    where = "all" if start is None and stop is None else f"{start or 0}:{'' if stop is None else stop}"
    what = {"ablate": f"ablate {change.stream}", "permute": f"permute {','.join(map(str, change.order))}"}
    return what.get(change.kind, change.kind.replace("_", " ")), where
