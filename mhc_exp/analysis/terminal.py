"""`mhc-exp ls`, `show` and `compare`: runs looked at in a terminal, from their files alone and without pandas."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mhc_exp.analysis import sources
from mhc_exp.analysis.load import choices, flat_config, run_line
from mhc_exp.analysis.result import closing_text, printable
from mhc_exp.analysis.rows import COLUMNS, Records
from mhc_exp.analysis.sources import NothingThere, Recorded
from mhc_exp.config.spelling import suggest
from mhc_exp.paths import runs_root

SOURCE = "directory, glob, or wandb://entity/project; default: $MHC_RUNS, or runs"
RUN = "its directory, or its name (or the beginning of it) below $MHC_RUNS, or runs"
WIDTH, HEIGHT = 64, 14
"""Characters of the text plot."""


def ls(arguments: Sequence[str]) -> int:
    """`mhc-exp ls [SOURCE ...]`; the exit code. Like `show` and `compare` it may raise NothingThere."""
    parser = command_parser("ls", "One line per run: how it ended and where it is.")
    parser.add_argument("source", nargs="*", metavar="SOURCE", help=SOURCE)
    print(ls_text(parser.parse_args(arguments).source or [runs_root()]))
    return 0


def show(arguments: Sequence[str]) -> int:
    """`mhc-exp show RUN`."""
    parser = command_parser("show", "A run: configuration unlike the defaults, result, curve of the loss.")
    parser.add_argument("run", metavar="RUN", help=RUN)
    print(printable(show_text(find(parser.parse_args(arguments).run))))
    return 0


def compare(arguments: Sequence[str]) -> int:
    """`mhc-exp compare RUN RUN`."""
    parser = command_parser("compare", "What two runs have different: configuration, cost, and metrics.")
    parser.add_argument("runs", nargs=2, metavar="RUN", help=RUN)
    print(printable(compare_text(*map(find, parser.parse_args(arguments).runs))))
    return 0


def command_parser(word: str, description: str) -> argparse.ArgumentParser:
    """The parser of `mhc-exp WORD ...`."""
    return argparse.ArgumentParser(prog=f"mhc-exp {word}", description=description, allow_abbrev=False)


def find(word: str) -> Recorded:
    """The one run that `word` means: a directory, a .wandb file, a name below the runs root. Raises NothingThere."""
    path = Path(word).expanduser()
    if path.exists() or word.startswith(sources.REMOTE):
        found = list(sources.read(word))
        if len(found) == 1:
            return found[0]
        if found:
            raise NothingThere(f"{word} holds {len(found)} runs; type one of them, such as {found[0].directory}")
        if sources.is_watch(path):
            raise NothingThere(f"{word} holds watched connections, not a run; type mhc-exp report {word}")
        raise NothingThere(f"{word} is not a run; type mhc-exp ls to see the runs")
    root = Path(runs_root()).expanduser()
    places = sources.places(root) if root.is_dir() else []
    for matches in (
        [place for place in places if place.name == word or str(place).endswith(f"/{word}")],
        [place for place in places if place.name.startswith(word)],
    ):
        if len(matches) == 1:
            return next(iter(sources.read(matches[0])))
        if matches:
            shown = ", ".join(os.path.relpath(place) for place in matches[:4])
            raise NothingThere(f"{word!r} means {len(matches)} runs; type one of: {shown}")
    hint = suggest(word, [place.name for place in places])
    raise NothingThere(f"no run {word!r}, as a path or below {root}{hint}; type mhc-exp ls to see the runs")


# --- ls --------------------------------------------------------------------------------------------------------------


def ls_text(source: Sequence[str]) -> str:
    """The table of all runs of `source`, and how many are in which state."""
    columns = ("state", "variant", "depth", "backend", "seed", "step", "score", "directory")
    if [*source] == [runs_root()] and not Path(runs_root()).expanduser().exists():
        raise NothingThere(
            f"there is no directory {runs_root()}; train a run: python -m mhc_exp, or name another directory"
        )
    lines: list[Sequence[str]] = [columns]
    states: dict[str, int] = {}
    for run in sources.read(source):
        line = run_line(run)
        state, total = str(line["status"]), line.get("total_steps")
        states[state] = states.get(state, 0) + 1
        step = f"{line.get('step') or 0}" + (f"/{total}" if total else "")
        score = line.get("score")
        shown = [line.get(name) for name in ("variant", "depth", "backend", "seed")]
        cells = [state, *("?" if value is None else str(value) for value in shown), step]
        lines.append([*cells, "" if not isinstance(score, int | float) else f"{score:.4f}", run.directory])
    if not states:
        return f"no runs in {', '.join(source)}; train one: python -m mhc_exp"
    count = sum(states.values())
    of_each = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    return f"{columns_text(lines, right=(2, 4, 5, 6))}\n{count} run{'s' * (count != 1)}: {of_each}"


def columns_text(lines: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """`lines` with their cells under each other, each on one line; the columns `right` end at their right side."""
    lines = [[printable(cell, kept="") for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


# --- show ------------------------------------------------------------------------------------------------------------


def show_text(run: Recorded) -> str:
    """What the run was asked to do, what became of it, and its loss as a picture of characters."""
    if Path(run.directory).is_dir():
        result = closing_text(run)
    else:
        result = f"{run.facts['name']}: {run.facts['state']}, step {run.facts['step']} ({run.directory})"
    return "\n\n".join([result, _configuration(run), plot_text(run.records)])


def _configuration(run: Recorded) -> str:
    config = run.facts.get("config")
    if not isinstance(config, dict):
        return "configuration: unknown, run.json is missing or damaged"
    words, defaults = _defaults(config)
    flat = flat_config(config)
    own = {key: value for key, value in flat.items() if key not in defaults or defaults[key] != value}
    named = " ".join(words) or "the defaults"
    if not own:
        return f"configuration: {named}"
    lines = [
        (f"  {key}", _shown(value), f"(default {_shown(defaults[key])})" if key in defaults else "")
        for key, value in own.items()
    ]
    return f"configuration: {named}, and\n{columns_text(lines)}"


def _defaults(config: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """The choices of groups behind `config` as words of a command line, and what they alone would give."""
    from mhc_exp.config import vocabulary
    from mhc_exp.config.build import as_mapping
    from mhc_exp.config.compose import compose

    chosen = choices(config)
    words = [
        f"{group}={option}"
        for group in ("variant", "backend", "dataset")
        if (option := chosen.get(group)) in vocabulary.options(group)
    ]
    try:
        return words, flat_config(as_mapping(compose(words)))
    except Exception:  # made by another version, whose choices are not ours: everything is shown
        return [], {}


def plot_text(records: Records) -> str:
    """Loss over steps: `.` training, `o` held-out; logarithmic where it falls by more than a factor of 30."""
    curves = [(mark, *records.series(name)) for mark, name in ((".", "train/loss"), ("o", "val/loss"))]
    values = [value for _, _, measured in curves for value in measured]
    if not values:
        return "loss: not measured yet"
    low, high = min(values), max(values)
    log = low > 0 and high > 30 * low
    scale: Callable[[float], float] = math.log if log else float
    bottom, span = scale(low), (scale(high) - scale(low)) or 1.0
    first = min(step for _, steps, _ in curves for step in steps)
    last = max(step for _, steps, _ in curves for step in steps)
    cells = [[" "] * WIDTH for _ in range(HEIGHT)]
    for mark, steps, measured in curves:
        for step, value in zip(steps, measured, strict=True):
            column = round((WIDTH - 1) * (step - first) / max(1, last - first))
            cells[round((HEIGHT - 1) * (1 - (scale(value) - bottom) / span))][column] = mark
    labels = {0: f"{high:.4g}", HEIGHT - 1: f"{low:.4g}"}
    lines = [f"{labels.get(number, ''):>9} |{''.join(row).rstrip()}" for number, row in enumerate(cells)]
    axis = f"{'':>9} +{'-' * WIDTH}\n{'':>11}{first:<{WIDTH // 2}}{f'step {last}':>{WIDTH - WIDTH // 2}}"
    return "\n".join([f"loss{' (log scale)' * log}: . training, o held-out", *lines, axis])


# --- compare ---------------------------------------------------------------------------------------------------------


def compare_text(one: Recorded, other: Recorded) -> str:
    """Configuration keys that differ, then every metric both measured, at the last step they have in common."""
    flats = [flat_config(run.facts.get("config") or {}) for run in (one, other)]
    keys = [key for key in sorted(flats[0].keys() | flats[1].keys()) if _of(flats[0], key) != _of(flats[1], key)]
    config = [("configuration", "A", "B"), *((key, _of(flats[0], key), _of(flats[1], key)) for key in keys)]
    lines = [f"A {one.facts['name']}: {one.facts['state']} ({one.directory})"]
    lines += [f"B {other.facts['name']}: {other.facts['state']} ({other.directory})", ""]
    lines += [columns_text(config) if keys else "the configurations are the same", ""]
    lines += [_metrics(one, other), "", "One pair of runs says nothing of the spread between seeds."]
    return "\n".join(lines)


def _metrics(one: Recorded, other: Recorded) -> str:
    table: list[Sequence[str]] = [("at the last common step", "step", "A", "B", "B - A")]
    mine, theirs = run_line(one), run_line(other)
    for name in ("body_parameters", "connection_parameters", "flops_per_token"):
        table += _line(name, "", mine.get(name), theirs.get(name))
    names = {name for run in (one, other) for row in run.records.rows for name in row} - {"step"}
    for name in (*COLUMNS, *sorted(names - set(COLUMNS))):
        curves = [dict(zip(*run.records.series(name), strict=True)) for run in (one, other)]
        common = max(curves[0].keys() & curves[1].keys(), default=None)
        if name in names and common is not None:
            table += _line(name, str(common), curves[0][common], curves[1][common])
    return columns_text(table, right=(1, 2, 3, 4)) if len(table) > 1 else "no metric was measured at a step of both"


def _line(name: str, step: str, mine: Any, theirs: Any) -> list[Sequence[str]]:
    if not isinstance(mine, int | float) or not isinstance(theirs, int | float):
        return []
    return [(name, step, _number(mine), _number(theirs), f"{'+' if theirs > mine else ''}{_number(theirs - mine)}")]


def _number(value: float) -> str:
    whole = float(value).is_integer() and abs(value) < 1e15
    return f"{value:,.0f}" if whole else f"{value:.6g}"


def _of(flat: dict[str, Any], key: str) -> str:
    return _shown(flat[key]) if key in flat else "-"


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
