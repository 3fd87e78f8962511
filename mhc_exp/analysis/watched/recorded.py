"""A directory of watched connections, read whatever a crash left of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mhc_exp.analysis.facts import decode
from mhc_exp.analysis.figures.inside import Grid
from mhc_exp.analysis.rows import Records, numbers, read_layers, read_records
from mhc_exp.analysis.sources import WATCH, NothingThere


@dataclass(frozen=True)
class Stack:
    """K connections that one state runs through."""

    name: str
    kind: str
    """`streams` or `history`."""
    facts: dict[str, Any]
    labels: list[str]
    """[K]"""
    records: Records
    """Rows of metrics.jsonl."""
    lines: list[dict[str, Any]]
    """Of layers.jsonl, in order of steps."""
    index: int | None
    """Number of the stack where there are several."""

    def grid(self, column: str) -> Grid | None:
        """`column` of layers.jsonl at the steps that have it, NaN where a connection has none; None without any."""
        found = [line for line in self.lines if self._fits(line.get(column))]
        if not found:
            return None
        values = np.stack([numbers(line[column]) for line in found], axis=1)
        if not np.isfinite(values).any():
            return None
        return np.array([line["step"] for line in found], np.float64), np.arange(len(self.labels), dtype=float), values

    def columns(self, prefix: str) -> list[str]:
        """Columns of layers.jsonl that begin with `prefix`, as first written."""
        names = dict.fromkeys(name for line in self.lines for name in line if name.startswith(prefix))
        return [name for name in names if self.grid(name) is not None]

    def _fits(self, values: Any) -> bool:
        return isinstance(values, list) and len(values) == len(self.labels)


@dataclass(frozen=True)
class Watched:
    """Everything that a Watch wrote."""

    directory: Path
    facts: dict[str, Any]
    stacks: list[Stack]


def read(directory: Path) -> Watched:
    """Raises NothingThere for a directory without a whole watch.json, and before the first watched step."""
    file = directory / WATCH
    try:
        facts = decode(file.read_text(encoding="utf-8"))
        known = [
            (str(one["name"]), str(one["kind"]), [str(label) for label in one["connections"]], one)
            for one in facts["stacks"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NothingThere(
            f"{file} cannot be read ({type(error).__name__}: {error}); Watch(model, {str(directory)!r}) writes it"
        ) from error
    several = len(known) > 1
    stacks = []
    for index, (name, kind, labels, own) in enumerate(known):
        place = directory / name if several else directory
        records, lines = read_records(place), read_layers(place)
        stacks.append(Stack(name, kind, own, labels, records, lines, index if several else None))
    if not any(stack.lines for stack in stacks):
        raise NothingThere(
            f"nothing has been measured in {directory} yet; a step is watched where `with watch.step():` is around it"
        )
    return Watched(directory, facts, stacks)
