"""What a suite is asked and what it hands over, as plain data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from mhc_exp.benchmarks.measure import Load

Cell = str | int | float | None
Row = dict[str, Cell]
"""Column (see `table.HEADINGS`) -> what was measured; a column that does not apply is absent."""


@dataclass(frozen=True)
class Options:
    """What the command line asks of every suite."""

    backend: str
    """cpu, cuda or mlx."""
    threads: int
    rounds: int
    wirings: tuple[str, ...] | None
    """Names of `cases.WIRINGS`, or options of the group `variant`; None: the suite's own."""
    tiers: tuple[str, ...]
    """Values of backend.kernels."""
    widths: tuple[int, ...] | None
    """None: the suite's own."""
    depths: tuple[int, ...] | None
    quick: bool
    """Tiny sizes: whether it works, not how fast it is."""


@dataclass(frozen=True)
class Lines:
    """A picture with one line per `by`: `value` over `over`; panels by the columns `panels`."""

    over: str
    value: str
    by: tuple[str, ...] = ("wiring", "tier")
    panels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bars:
    """A picture with one bar per row, named by the columns `by`; several values are stacked."""

    values: tuple[str, ...] = ("ratio",)
    by: tuple[str, ...] = ("wiring", "tier")
    panels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """The rows of one suite."""

    suite: str
    about: str
    """What was measured, on which sizes, and what the ratio is to."""
    rows: list[Row]
    load: Load
    picture: Lines | Bars
    notes: list[str] = field(default_factory=list)
    """What could not be measured and why, and figures that concern several rows."""


class Unsuitable(Exception):
    """A suite cannot do what was asked, with what to type instead."""


Suite = Callable[[Options], Result]
