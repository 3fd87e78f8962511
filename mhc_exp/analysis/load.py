"""The two tables of any set of runs: `rows`, one line per run and step, and `runs`, one line per run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mhc_exp.analysis import sources
from mhc_exp.analysis.facts import KINDS
from mhc_exp.analysis.rows import COLUMNS, Records, columns_of, numbers, read_layers
from mhc_exp.analysis.sources import Recorded, Source

if TYPE_CHECKING:
    import pandas as pd

CHOICES = {"variant": "name", "backend": "name", "dataset": "kind"}
"""Groups of the configuration that have a column of their own, and the key that names the choice."""
ELSEWHERE = ("name", "runs_root", "tracking", "launch")
"""Keys of the configuration that say where results go; they are no column."""
FACTS = (
    *("run", "name", "sweep", "status", "reason", "variant", "depth", "backend", "dataset", "seed"),
    *("step", "total_steps", "tokens", "seconds", "score", "floor", "chance"),
    *("body_parameters", "connection_parameters", "parameters"),
    *("flops_per_token", "tokens_per_step", "flops", "device", "kernels", "recompute", "vocab_size"),
    *("config_hash", "initial_weights", "commit", "hostname", "created", "ended", "nonfinite_total"),
    *("rows", "broken_lines", "torn_tail", "directory"),
)
"""Columns that every `runs` table has, in this order; the configuration's dotted keys follow in alphabetical order."""
_NUMBERS = {
    *(name for name, kind in KINDS.items() if kind in (int, float)),
    *("depth", "seed", "tokens", "seconds", "parameters", "flops", "rows", "broken_lines"),
}


class Tables(NamedTuple):
    """What pictures, reports and notebooks are made from."""

    rows: pd.DataFrame
    """One line per run and step."""
    runs: pd.DataFrame
    """One line per run."""
    layers: pd.DataFrame
    """One line per run, step and connection; empty where nothing was measured."""


def load_runs(source: Source | Sequence[Source]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`(rows, runs)` of `source`: a directory of runs, one run, a glob, `.wandb` files, wandb://entity/project, a list.

    `rows` has `run`, then the columns of `analysis.rows.COLUMNS` (NaN where not measured), then whatever else was
    logged. `runs` has `FACTS`, then the configuration: `optimizer.lr`, `variant.streams`, ... . `status` is done,
    diverged, interrupted, failed, running, killed (running, but its process is gone), created or unknown; `score` is
    the last finite held-out loss; `flops` are training FLOPs so far. A run that did not end well is a line like any
    other. Raises sources.NothingThere for a source that does not exist.
    """
    rows, runs, _ = load_tables(source, layers=False)
    return rows, runs


def load_layers(source: Source | Sequence[Source]) -> pd.DataFrame:
    """What was measured of every connection: `run`, `step`, `connection` (0 is the first), then a column per measure.

    Names of runs are those of `load_runs(source)`. Only run directories have these lines, so a run that is read from
    W&B has none; a number that was not finite is NaN. Columns are defined at `topology.diagnosis.per_connection`.
    """
    return load_tables(source)[2]


def load_tables(source: Source | Sequence[Source], *, layers: bool = True) -> Tables:
    """`rows` and `runs` of `load_runs`, and `layers` of `load_layers` (empty if not asked for), read in one go."""
    import pandas as pd

    facts: list[Recorded] = []
    lines: list[dict[str, Any]] = []
    tables: list[pd.DataFrame] = []
    for run in sources.read(source):  # one at a time: a row takes ten times more memory as a dict than in the table
        lines.append(run_line(run))
        tables.append(pd.DataFrame(columns_of(run.records.rows)))
        facts.append(run._replace(records=Records([], 0, False)))
    names = run_names(facts)
    lines = [{**line, "run": name} for name, line in zip(names, lines, strict=True)]
    columns = [*FACTS, *sorted({key for line in lines for key in line} - set(FACTS))]
    runs = pd.DataFrame({column: _column(column, [line.get(column) for line in lines]) for column in columns})
    directories = [run.directory for run in facts] if layers else []
    return Tables(_stacked(names, tables), runs, _layers(names[: len(directories)], directories))


def _layers(names: Sequence[str], directories: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    tables = []
    for name, directory in zip(names, directories, strict=True):
        for line in read_layers(directory):
            measured = {column: values for column, values in line.items() if isinstance(values, list)}
            count = max(map(len, measured.values()), default=0)
            whole = {column: numbers(values) for column, values in measured.items() if len(values) == count}
            if whole:
                tables.append(pd.DataFrame({"run": name, "step": line["step"], "connection": range(count), **whole}))
    empty = pd.DataFrame({"run": pd.Series(dtype="object"), "step": [], "connection": []})
    return pd.concat(tables, ignore_index=True) if tables else empty.astype({"step": "int64", "connection": "int64"})


def _stacked(names: Sequence[str], tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """All rows under each other, the name of the run in front."""
    import pandas as pd

    measured = [table for table in tables if len(table)]
    rows: Any = pd.concat(measured, ignore_index=True) if measured else pd.DataFrame(columns_of([]))
    extra = sorted(set(rows.columns) - set(COLUMNS))
    labels = [name for name, table in zip(names, tables, strict=True) for _ in range(len(table))]
    rows = rows[[*COLUMNS, *extra]]
    rows.insert(0, "run", pd.Series(labels, dtype="object"))
    return rows


def run_names(recorded: Sequence[Recorded]) -> list[str]:
    """A name for each run: its own; with its sweep in front, or else its directory, where several have the same."""
    names = [str(run.facts["name"]) for run in recorded]
    for label in (lambda run: f"{run.facts.get('sweep') or 'single'}/{run.facts['name']}", lambda run: run.directory):
        often = Counter(names)
        names = [name if often[name] == 1 else label(run) for name, run in zip(names, recorded, strict=True)]
    return names


def run_line(run: Recorded) -> dict[str, Any]:
    """The line of one run in the table `runs`, without `run`."""
    facts, config = run.facts, run.facts.get("config") or {}
    body, connections = facts.get("body_parameters"), facts.get("connection_parameters")
    counted = run.records.last("train/nonfinite_total")  # all that a recording for W&B has of it
    line: dict[str, Any] = {name: facts[name] for name in FACTS if name in facts}
    line |= {
        "status": facts.get("state"),
        "tokens": run.records.last("tokens"),
        "seconds": run.records.last("seconds"),
        "parameters": None if body is None else body + (connections or 0),
        "commit": git.get("commit") if isinstance(git := facts.get("git"), dict) else None,
        "rows": len(run.records.rows),
        "broken_lines": run.records.broken,
        "nonfinite_total": facts.get("nonfinite_total", counted if counted is None else int(counted)),
        "torn_tail": run.records.torn,
        "directory": run.directory,
    }
    per_token, tokens = facts.get("flops_per_token"), line["tokens"]
    line["flops"] = per_token * tokens if per_token is not None and tokens is not None else None
    return {**flat_config(config), **line, **choices(config)}


def choices(config: dict[str, Any]) -> dict[str, Any]:
    """Depth, seed, and the name of the chosen variant, backend and dataset."""
    named = {group: (config.get(group) or {}).get(key) for group, key in CHOICES.items()}
    return {**named, "depth": config.get("depth"), "seed": config.get("seed")}


def flat_config(config: dict[str, Any]) -> dict[str, Any]:
    """Dotted key -> value of everything in `config` that decides a result; lists as text."""
    flat: dict[str, Any] = {}

    def add(prefix: str, mapping: dict[str, Any]) -> None:
        for key, value in mapping.items():
            if isinstance(value, dict):
                add(f"{prefix}{key}.", value)
            else:
                flat[prefix + key] = str(value) if isinstance(value, list) else value

    add("", {key: value for key, value in config.items() if key not in ELSEWHERE})
    return flat


def _column(name: str, values: list[Any]) -> Any:
    """Numbers where the column is known or seen to hold numbers; text, truth and missing values as they are."""
    import pandas as pd

    seen = [value for value in values if value is not None]
    if name not in _NUMBERS and not (seen and {*map(type, seen)} <= {int, float}):
        return pd.Series(values, dtype="object")
    if values and all(type(value) is int and abs(value) < 2**63 for value in values):
        return pd.Series(values, dtype="int64")
    return pd.Series([math.nan if value is None else value for value in values], dtype="float64")
