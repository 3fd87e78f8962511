"""Which runs belong to the same line of a picture: nothing is averaged that differs in more than its seed.

An arm is a wiring: a variant, with those of its keys in its name that were varied (`mhc streams=2`). A setting is what
else was varied (`hops=2`); it gets panels of its own. Where only the learning rate was, each arm has its best one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mhc_exp.analysis.figures.figure import Tables
from mhc_exp.analysis.palette import Look, looks
from mhc_exp.analysis.statistics import at_best_learning_rate

Table = Any
"""A pandas table inside these functions: what pandas declares of groupby and masks is too vague to check against."""

RATE = "optimizer.lr"
CELL = ["arm", "setting", "depth"]
"""Runs that agree in these are seeds of the same experiment."""
MOST_KEYS, MOST_SETTINGS = 3, 6
RECORDING = {
    f"training.{key}"
    for key in ("log_every", "eval_every", "metrics_every", "checkpoint_every", "keep_checkpoints", "sample_tokens")
}
"""Keys that say what is written down, not what happens."""


@dataclass(frozen=True)
class Arms:
    """Runs that can be compared, and what a reader has to know about them."""

    runs: Table
    """`runs` with `arm` and `setting`, without what belongs nowhere."""
    looks: dict[str, Look]
    """How each arm looks, in the order in which they are drawn."""
    remarks: tuple[str, ...]
    """What became of runs that are not in `runs`."""
    unseen: tuple[str, ...]
    """Keys of the configuration that neither arm nor setting tells."""

    def settings(self) -> list[str]:
        """Names of the settings; one that is empty where nothing but wiring, depth, seed and learning rate varies."""
        return sorted(self.runs["setting"].unique())

    def depths(self) -> list[int]:
        """Depths of the runs, ascending."""
        return sorted(int(depth) for depth in self.runs["depth"].unique())

    def differences(self, runs: Table) -> list[str]:
        """What else differs between `runs`: a reader must know before believing a difference in the picture."""
        said, keys = [], list(self.unseen)
        for cell, between in ((["setting", "depth"], "between wirings"), (["setting", "arm"], "between depths")):
            if varied := _varied(runs, cell, keys):
                said.append(f"Also different {between}: {', '.join(varied)}.")
                keys = [key for key in keys if key not in varied]
        return said

    def by_arm(self, runs: Table) -> list[tuple[str, Look, Table]]:
        """`runs` arm by arm, those that have any."""
        parts = dict(iter(runs.groupby("arm")))
        return [(arm, look, parts[arm]) for arm, look in self.looks.items() if arm in parts]


def compared(tables: Tables, axis: Sequence[str] = ()) -> Arms | str:
    """The runs as arms and settings, each arm at its best learning rate; or why they cannot share a picture."""
    arms = grouped(tables, axis)
    return arms if isinstance(arms, str) else _at_best(arms)


def grouped(tables: Tables, axis: Sequence[str] = ()) -> Arms | str:
    """The runs as arms and settings at all learning rates; keys in `axis` are neither, the picture shows them."""
    every: Table = tables.runs
    if every.empty:
        return "there are no runs"
    runs = every[every[["variant", "depth", "seed"]].notna().all(axis=1)]
    if runs.empty:
        return "no run says what its variant, depth and seed are (its run.json is missing or damaged)"
    unknown = len(every) - len(runs)
    remarks = [f"{_runs(unknown)} without a known variant, depth and seed left out."] if unknown else []
    keys = [key for key in runs if "." in key and key not in (RATE, *RECORDING, *axis)]
    cells = [column for column in ("variant", "depth", "backend", "dataset") if column in runs]
    wiring = {
        variant: _varied(part, cells, [key for key in keys if key.startswith("variant.")])
        for variant, part in runs.groupby("variant")
    }
    others = _varied(runs, ["variant", "depth"], ["backend", "dataset"])
    others += _varied(runs, cells, [key for key in keys if not key.startswith("variant.")])
    for varied in (others, *wiring.values()):
        if len(varied) > MOST_KEYS:
            return f"the runs differ in {', '.join(varied)}: choose those that differ in at most {MOST_KEYS} of these"
    runs = runs.assign(
        arm=[" ".join([line["variant"], *_words(line, wiring[line["variant"]])]) for _, line in runs.iterrows()],
        setting=[", ".join(_words(line, others)) for _, line in runs.iterrows()],
    )
    if (count := runs["setting"].nunique()) > MOST_SETTINGS:
        return f"{', '.join(others)} make {count} settings: choose the runs of at most {MOST_SETTINGS}"
    once = _once(runs, [*CELL, "seed", *(key for key in (RATE, *axis) if key in runs)])
    if len(once) < len(runs):
        remarks.append(f"{_runs(len(runs) - len(once))} left out, the same experiment again.")
    unseen = [key for key in keys if key not in (*others, *axis) and not key.startswith("variant.")]
    if not _varied(once, CELL, [RATE]):  # else each arm has its best rate, and a remark says so
        unseen.append(RATE)
    names = sorted(once["arm"].unique(), key=lambda arm: (arm != "baseline", _natural(arm)))
    found = looks(names)
    return Arms(once, {name: found[name] for name in names}, tuple(remarks), tuple(unseen))


def _at_best(arms: Arms) -> Arms:
    """Each arm at the learning rate that `statistics` calls its best; at the lowest where no run of it has ended."""
    runs = arms.runs
    if RATE not in runs or not _varied(runs, CELL, [RATE]):
        return arms
    named = runs.assign(variant=runs["arm"])
    best = at_best_learning_rate(named, by=["setting", "depth"])
    ended = set(best[CELL].itertuples(index=False, name=None))
    never = runs[[cell not in ended for cell in runs[CELL].itertuples(index=False, name=None)]]
    lowest = never[never[RATE] == never.groupby(CELL)[RATE].transform("min")]
    kept = runs[runs["run"].isin([*best["run"], *lowest["run"]])]
    said = f"Each wiring at its best of several learning rates at that depth: {len(runs) - len(kept)} runs at others "
    lost = int((runs["status"] == "diverged").sum() - (kept["status"] == "diverged").sum())
    said += f"({lost} of them diverged) are not here."
    if len(lowest):
        said += f" {_runs(len(lowest))} at the lowest rate, because at no rate one has ended."
    return replace(arms, runs=kept, remarks=(*arms.remarks, said))


def _once(runs: Table, keys: list[str]) -> Table:
    """One run per experiment, one that is done if there is one."""
    order = runs.assign(_late=~runs["status"].eq("done")).sort_values(["_late", "step"], ascending=[True, False])
    return order.drop_duplicates(keys).drop(columns="_late").sort_index()


def _varied(runs: Table, cells: list[str], keys: list[str]) -> list[str]:
    """Those `keys` that have more than one value within a cell."""
    keys = [key for key in keys if key in runs and runs[key].map(repr).nunique() > 1]
    if not keys or not cells:
        return keys
    values = runs[keys].map(repr).groupby([runs[cell] for cell in cells]).nunique()
    return [key for key in keys if (values[key] > 1).any()]


def _words(line: Table, keys: list[str]) -> list[str]:
    """`streams=2`: the last part of each key and its value; what a run does not have goes unsaid."""
    known = [(key.rsplit(".", 1)[-1], line[key]) for key in keys if line[key] is not None and line[key] == line[key]]
    return [f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in known]


def _natural(name: str) -> list[tuple[float, str]]:
    """`streams=10` after `streams=2`."""
    words = name.replace("=", " ").split()
    return [(float(word), "") if word.replace(".", "", 1).isdigit() else (0.0, word) for word in words]


def _runs(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"
