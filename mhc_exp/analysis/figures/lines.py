"""From arms to curves: means over seeds with their range, and every run that is not done as what it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mhc_exp.analysis.figures.arms import Arms
from mhc_exp.analysis.palette import Look
from mhc_exp.analysis.style import Curve, Lost

Table = Any

ENDED = {"done": "", "diverged": "diverged"}
"""Status of a run -> how its curve ends; any other is unfinished."""


def over_steps(arms: Arms, runs: Table, rows: Table, column: str, axis: str = "step") -> list[Curve]:
    """A curve per arm of `runs`: `column` of `rows` over `axis`, seeds averaged where all of them have a value.

    Only runs that are done are averaged. A mean that included the others would jump where one of them ends.
    """
    curves: list[Curve] = []
    for arm, look, part in arms.by_arm(runs):
        states = dict(zip(part["run"], part["status"], strict=True))
        lines: Table = rows[rows["run"].isin(list(states))]
        measured = lines[list(dict.fromkeys(["run", "step", axis, column]))].dropna()
        done = measured[measured["run"].map(states) == "done"]
        mean = seed_mean(arm, look, done, column, "step", axis) if len(done) else None
        others = measured if mean is None else measured[measured["run"].map(states) != "done"]
        seeds = dict(zip(part["run"], part["seed"], strict=True))
        singles = [
            _single(arm, look, run, column, axis, states[name], seeds[name]) for name, run in others.groupby("run")
        ]
        if mean is None and singles:  # nothing is done: the run that got farthest carries the name
            farthest = max(range(len(singles)), key=lambda index: singles[index].steps[-1])
            singles[farthest] = _named(singles[farthest], arm)
        curves += [mean] if mean else []
        curves += singles
    return curves


def seed_mean(label: str, look: Look, measured: Table, column: str, key: str, axis: str | None = None) -> Curve | None:
    """Mean of `column` over the runs in `measured` at every `key` that all of them have, with smallest and largest.

    `axis`, where it is not `key`, is averaged as well. None if they have no `key` in common.
    """
    wide: Table = measured.pivot(index=key, columns="run", values=column).dropna()
    if wide.empty:
        return None
    where: Table = wide.index
    if axis not in (None, key):
        averaged: Table = measured.pivot(index=key, columns="run", values=axis)
        where = averaged.loc[wide.index].mean(axis=1)
    band = (wide.min(axis=1).tolist(), wide.max(axis=1).tolist()) if wide.shape[1] > 1 else None
    return Curve(label, [*where], wide.mean(axis=1).tolist(), look.color, look.dash, look.marker, band=band)


def against(arms: Arms, runs: Table, value: str, key: str) -> tuple[list[Curve], list[Lost]]:
    """A curve per arm of the last `value` of runs that are done over `key`; a mark for all that have none."""
    curves: list[Curve] = []
    lost: list[Lost] = []
    for arm, look, part in arms.by_arm(runs):
        fit = part["status"].eq("done") & part[value].notna()
        if fit.any():
            groups = part[fit].groupby(key)[value]
            low, high = groups.min().tolist(), groups.max().tolist()
            band = (low, high) if groups.size().max() > 1 else None
            steps, values = groups.mean().index.tolist(), groups.mean().tolist()
            curves.append(Curve(arm, steps, values, look.color, look.dash, look.marker, band=band, bars=True))
        for (place, ending), missing in part[~fit].groupby([key, part[~fit]["status"].map(ending_of)]):
            of = int((part[key] == place).sum())
            lost.append(Lost(float(place), f"{arm}: {len(missing)} of {of} {ending}", ending, look.color))
    return curves, lost


def with_last(runs: Table, rows: Table, column: str, into: str) -> Table:
    """`runs` with the newest measured `column` of each, NaN for a run that has none."""
    last = rows[["run", "step", column]].dropna().sort_values("step").groupby("run")[column].last()
    return runs.assign(**{into: runs["run"].map(last).astype("float64")})


def ending_of(status: str) -> str:
    """How the curve of a run with this status ends: empty, `diverged` or `unfinished`."""
    return ENDED.get(status, "unfinished")


def caption(arms: Arms, shown: str, runs: Table, *, keys: Sequence[str] = ()) -> str:
    """`shown`, what line and band are, how the runs ended, how else they differ, and the remarks."""
    ended: Table = runs[runs["status"] == "done"]
    done = ended.groupby(["arm", "setting", "depth", *keys]).size()
    few, many = (int(done.min()), int(done.max())) if len(done) else (0, 0)
    seeds = f"{many}" if few == many else f"{few} to {many}"
    mean = f"Mean over {seeds} seeds; the band (or bar) goes from the smallest to the largest of them."
    ends = runs["status"].map(ending_of).value_counts()
    counts = [f"{len(runs)} runs" if len(runs) != 1 else "1 run"]
    if diverged := int(ends.get("diverged", 0)):
        counts.append(f"{diverged} diverged (filled ×)")
    if unfinished := int(ends.get("unfinished", 0)):
        counts.append(f"{unfinished} not finished (open ○)")
    in_no_mean = " Those that are not done are in no mean." if len(counts) > 1 else ""
    band = mean if many > 1 else "One seed, hence no band."
    return " ".join([shown, band, f"{', '.join(counts)}.{in_no_mean}", *arms.differences(runs), *arms.remarks])


def where(depth: float | None, setting: str, what: str = "") -> str:
    """Title of a panel."""
    return ", ".join(filter(None, (what, "" if depth is None else f"depth {depth:g}", setting)))


def _single(arm: str, look: Look, run: Table, column: str, axis: str, status: str, seed: float) -> Curve:
    ending, run = ending_of(status), run.sort_values(axis)
    said = "" if ending == "" else f", {status}"
    steps, values = run[axis].tolist(), run[column].tolist()
    label = f"{arm}, seed {seed:g}{said}"
    return Curve(label, steps, values, look.color, look.dash, look.marker, ending=ending, named=False)


def _named(curve: Curve, arm: str) -> Curve:
    return replace(curve, label=f"{arm} ({curve.ending})" if curve.ending else arm, named=True)
