"""Time of several calls, in turns: ratios between them survive what else the machine does meanwhile."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

TURN = 0.02
"""Seconds that a turn lasts at least: a shorter call is repeated."""
QUIET = 0.2
"""Cores that other processes may use before the table warns."""
_BUSY = (0, 1, 2, 5, 6, 7)
"""Columns of /proc/stat: user, nice, system, interrupts, soft interrupts, stolen by the hypervisor."""

Key = TypeVar("Key", bound=Hashable)


class Seconds(NamedTuple):
    """Of one call: on the clock, and of processor time of this process (all its threads)."""

    wall: float
    cpu: float


class Ratio(NamedTuple):
    """Median, smallest and largest over the rounds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Load:
    """What other processes did meanwhile."""

    foreign: float | None
    """Cores they used on average; None where the system does not tell (/proc/stat)."""
    seconds: float
    """How long was looked."""

    @property
    def text(self) -> str:
        """For people."""
        if self.foreign is None:
            return "what other processes used is not known on this system"
        said = f"other processes used {self.foreign:.2f} cores during {self.seconds:.0f} s"
        loud = f"warning: {said}, above {QUIET}; repeat on a quiet machine (CPU times suffer less than others)"
        return loud if self.foreign > QUIET else said


def together(loads: Iterable[Load]) -> Load:
    """One load of several stretches of time."""
    parts = list(loads)
    seconds = sum(part.seconds for part in parts)
    known = [part.foreign * part.seconds for part in parts if part.foreign is not None]
    return Load(sum(known) / seconds if len(known) == len(parts) and seconds else None, seconds)


@dataclass(frozen=True)
class Rounds(Generic[Key]):
    """Seconds of every call in every round, and the load during them."""

    seconds: dict[Key, list[Seconds]]
    load: Load

    def median(self, key: Key) -> Seconds:
        """Median over the rounds."""
        walls, cpus = zip(*self.seconds[key], strict=True)
        return Seconds(statistics.median(walls), statistics.median(cpus))

    def ratio(self, key: Key, to: Key) -> Ratio:
        """Wall time over that of `to` in the same round."""
        ratios = [own.wall / other.wall for own, other in self._pairs(key, to)]
        return Ratio(statistics.median(ratios), min(ratios), max(ratios))

    def cpu_ratio(self, key: Key, to: Key) -> float:
        """Processor time over that of `to` in the same round, median."""
        return statistics.median(own.cpu / other.cpu if other.cpu else math.nan for own, other in self._pairs(key, to))

    def row(self, key: Key, to: Key) -> dict[str, float]:
        """The columns of a table of times."""
        median, ratio = self.median(key), self.ratio(key, to)
        times = {"ms": 1e3 * median.wall, "ratio": ratio.median, "low": ratio.low, "high": ratio.high}
        return times | {"cpu_ms": 1e3 * median.cpu, "cpu_ratio": self.cpu_ratio(key, to)}

    def _pairs(self, key: Key, to: Key) -> zip[tuple[Seconds, Seconds]]:
        return zip(self.seconds[key], self.seconds[to], strict=True)


class Watch:
    """The foreign load since this was made."""

    def __init__(self) -> None:
        self._started, self._busy, self._own = time.monotonic(), busy_seconds(), own_seconds()

    def load(self) -> Load:
        """Average over the time that has passed."""
        seconds, busy = time.monotonic() - self._started, busy_seconds()
        if busy is None or self._busy is None:
            return Load(None, seconds)
        foreign = busy - self._busy - (own_seconds() - self._own)
        return Load(max(0.0, foreign) / max(seconds, 1e-9), seconds)


def interleaved(calls: Mapping[Key, Callable[[], object]], rounds: int) -> Rounds[Key]:
    """Every call in turn, `rounds` times, after two calls of each that do not count. Calls wait for their device."""
    for call in calls.values():
        call()
    repeats = {key: _repeats(call) for key, call in calls.items()}
    seconds: dict[Key, list[Seconds]] = {key: [] for key in calls}
    watch = Watch()
    for _ in range(rounds):
        for key, call in calls.items():
            seconds[key].append(_turn(call, repeats[key]))
    return Rounds(seconds, watch.load())


def busy_seconds() -> float | None:
    """Processor seconds that all processes of the machine have used since it started; None without /proc/stat."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    return sum(int(fields[index]) for index in _BUSY) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """Processor seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


def _repeats(call: Callable[[], object]) -> int:
    return max(1, math.ceil(TURN / max(_turn(call, 1).wall, 1e-6)))


def _turn(call: Callable[[], object], repeats: int) -> Seconds:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        call()
    return Seconds((time.perf_counter() - wall) / repeats, (time.process_time() - cpu) / repeats)
