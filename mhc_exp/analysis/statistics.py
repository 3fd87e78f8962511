"""Is one wiring better than another? Paired differences over seeds, with the doubt that belongs to them.

Everything takes the `runs` table (and `rows`, for curves) of `analysis.load_runs` and gives a table. Lower is better.
Runs that diverged or did not finish have no value; they are counted in the comparison, never left out of it silently.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mhc_exp.analysis.differences import agreement, bootstrap_interval, standard_error, verdict

if TYPE_CHECKING:
    import pandas as pd

Table = Any
"""A pandas table inside these functions: what pandas declares of groupby and masks is too vague to check against."""

VIEWS = {"equal-step": "step", "equal-token": "tokens", "equal-time": "seconds"}
"""What two runs have in common when they are compared -> the column of `rows` that measures it."""
BEST_RATE = {
    "": "best learning rate",
    **{edge: f"best learning rate, at the {edge} end of its grid" for edge in ("low", "high")},
    "only": "only one learning rate",
}
"""`edge` of a best learning rate (`learning_rates`) -> what a reader is told."""
COST = ("parameters", "flops_per_token")


def paired(
    runs: pd.DataFrame, *, reference: str = "baseline", value: str = "score", by: Sequence[str] = ("depth",)
) -> pd.DataFrame:
    """Every variant minus `reference`, paired by seed, one line per variant within each group `by`.

    `mean`, `se`, `low` and `high` (95 %), `agree` of `seeds`, `verdict`, `seeds_needed`; how many runs of the variant
    and of the reference `diverged` or are `unfinished`; `parameters_percent` and `flops_percent`, what the variant has
    more than the reference; `differs`, configuration keys beside variant.* in which the pairs differ; `notes`.
    Runs whose run.json is damaged belong to no variant; `attrs["unknown"]` counts them.
    Raises ValueError where a seed occurs twice: filter the runs, add a column to `by`, or see at_best_learning_rate.
    """
    import pandas as pd

    table = _unique(_valued(runs, value), by)
    lines: list[dict[str, Any]] = []
    for key, group in _groups(table, by):
        there = group[group["variant"] == reference]
        for variant, here in group.groupby("variant", sort=True):
            if variant != reference:
                lines.append({**dict(zip(by, key, strict=True)), "variant": variant, **_compared(here, there, value)})
    compared = pd.DataFrame(lines, columns=[*by, "variant", *_PAIRED])
    every: Table = runs
    compared.attrs["unknown"] = int(every[["variant", "seed"]].isna().any(axis=1).sum())
    return compared


_PAIRED = (
    *("value", "reference_value", "mean", "se", "low", "high", "agree", "seeds", "verdict", "seeds_needed"),
    *("diverged", "reference_diverged", "unfinished", "reference_unfinished"),
    *("parameters_percent", "flops_percent", "differs", "notes"),
)


def _compared(here: Table, there: Table, value: str) -> dict[str, Any]:
    pairs = here.merge(there, on="seed", suffixes=("", " of reference")).dropna(
        subset=["_value", "_value of reference"]
    )
    ours, theirs = pairs["_value"].to_numpy(np.float64), pairs["_value of reference"].to_numpy(np.float64)
    differences = ours - theirs
    said = verdict(differences)
    low, high = bootstrap_interval(differences)
    empty = differences.size == 0
    line: dict[str, Any] = {
        "value": math.nan if empty else float(ours.mean()),
        "reference_value": math.nan if empty else float(theirs.mean()),
        "mean": math.nan if empty else float(differences.mean()),
        **{"se": standard_error(differences), "low": low, "high": high},
        **{"agree": agreement(differences), "seeds": int(differences.size)},
        **{"verdict": said.text, "seeds_needed": said.seeds_needed},
    }
    for prefix, side in (("", here), ("reference_", there)):
        line[f"{prefix}diverged"] = int((side["status"] == "diverged").sum())
        line[f"{prefix}unfinished"] = int((~side["status"].isin(["done", "diverged"])).sum())
    for cost, name in zip(COST, ("parameters_percent", "flops_percent"), strict=True):
        line[name] = _percent(here, there, cost)
    line["differs"] = ", ".join(_confounds(here, there))
    line["notes"] = "; ".join(_notes(line, here, there))
    return line


def _notes(line: dict[str, Any], here: Table, there: Table) -> list[str]:
    """What a reader must know before the numbers."""
    notes = []
    for prefix, name, side in (("", "", here), ("reference_", "reference ", there)):
        if count := line[f"{prefix}diverged"]:
            notes.append(f"{name}diverged in {count} of {len(side)} seeds, which are in no mean")
        if count := line[f"{prefix}unfinished"]:
            notes.append(f"{name}unfinished in {count} of {len(side)} seeds")
    unpaired = len(set(here["seed"]) ^ set(there["seed"]))
    if unpaired:
        notes.append(f"{unpaired} seeds have no partner")
    edges = sorted({edge for side in (here, there) if "lr_edge" in side for edge in side["lr_edge"] if edge})
    notes += [BEST_RATE[edge] for edge in edges]
    devices = {device for side in (here, there) for device in side.get("device", []) if isinstance(device, str)}
    if len(devices) > 1:
        notes.append("measured on different devices")
    return notes


def _percent(here: Table, there: Table, column: str) -> float:
    if column not in here or here.empty or there.empty:
        return math.nan
    ours, theirs = float(here[column].mean()), float(there[column].mean())
    return 100 * (ours - theirs) / theirs if theirs else math.nan


def _confounds(here: Table, there: Table) -> list[str]:
    """Configuration keys, variant.* apart, whose values are not the same on both sides."""
    if here.empty or there.empty:
        return []
    keys = [
        key for key in here if ("." in key and not key.startswith("variant.")) or key in ("depth", "backend", "dataset")
    ]
    return [key for key in keys if set(here[key].map(repr)) != set(there[key].map(repr))]


def _groups(table: Table, by: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], Table]]:
    """Key and part of each group; without `by` all of it is one group."""
    return iter(table.groupby(list(by), dropna=False, sort=True)) if by else iter([((), table)])


def _valued(runs: Table, value: str) -> Table:
    """`runs` with `_value`: that column for runs that are done (or already judged at a common point), else NaN."""
    if value not in runs:
        raise ValueError(f"no column {value!r} in runs; there is {', '.join(map(str, runs.columns[:20]))}, ...")
    fit = runs["status"].ne("diverged") if value == "value" and "at" in runs else runs["status"].eq("done")
    values = runs[value].astype("float64").where(fit)
    return runs.assign(_value=values.where(np.isfinite(values)))


def _unique(runs: Table, by: Sequence[str]) -> Table:
    """One run per group, variant and seed. The same experiment twice counts once; two experiments are an error."""
    keys = [*by, "variant", "seed"]
    runs = runs[runs["variant"].notna() & runs["seed"].notna()]
    runs = runs.sort_values("_value", na_position="last", kind="stable")
    if "config_hash" in runs:
        known = runs["config_hash"].notna()
        runs = runs[~(known & runs.duplicated([*keys, "config_hash"]))]
    twice = runs[runs.duplicated(keys, keep=False)]
    if len(twice):
        same = twice.groupby(keys, dropna=False).get_group(tuple(twice.iloc[0][keys]))
        differing = [c for c in same if "." in c and same[c].map(repr).nunique() > 1] or [
            "nothing that is in the table"
        ]
        who = ", ".join(f"{key}={same.iloc[0][key]}" for key in keys)
        raise ValueError(
            f"{len(same)} runs have {who} and differ in {', '.join(differing)}; "
            "compare at_best_learning_rate(runs), filter the runs, or add a column to `by`"
        )
    return runs.sort_index()


# --- each at its own best learning rate ------------------------------------------------------------------------------


def learning_rates(
    runs: pd.DataFrame, *, value: str = "score", by: Sequence[str] = ("depth",), rate: str = "optimizer.lr"
) -> pd.DataFrame:
    """One line per group, variant and learning rate: `mean` over the seeds that every usable rate has, `seeds`,
    `diverged`, `unfinished`, `best`, and `edge`: `low` or `high` where the best rate ends the grid, `only` where it is
    the whole grid, else empty.

    A rate is usable if none of its runs diverged; where every rate diverged somewhere, those that diverged least are.
    The rate is chosen on the same seeds that are compared afterwards, which favours a variant with a longer grid.
    """
    import pandas as pd

    table = _unique(_valued(runs, value), [*by, rate])
    lines: list[dict[str, Any]] = []
    for key, group in _groups(table, [*by, "variant"]):
        rates = dict(iter(group.groupby(rate, sort=True)))
        diverged = {lr: int((side["status"] == "diverged").sum()) for lr, side in rates.items()}
        finite = {lr: side.dropna(subset=["_value"]).set_index("seed")["_value"] for lr, side in rates.items()}
        measured = [lr for lr in rates if len(finite[lr])]
        least = min((diverged[lr] for lr in measured), default=0)
        usable = [lr for lr in measured if diverged[lr] == least]
        common = set.intersection(*(set(finite[lr].index) for lr in usable)) if usable else set()
        means = {
            lr: float((finite[lr][sorted(common)] if common and lr in usable else finite[lr]).mean()) for lr in measured
        }
        best = min(usable, key=means.__getitem__) if usable else None
        grid = sorted(rates)
        for lr, side in rates.items():
            line = dict(zip([*by, "variant"], key, strict=True))
            line |= {rate: lr, "mean": means.get(lr, math.nan), "seeds": len(finite[lr]), "diverged": diverged[lr]}
            line |= {"unfinished": int((~side["status"].isin(["done", "diverged"])).sum()), "best": lr == best}
            low, high = lr == grid[0], lr == grid[-1]
            end = "only" if low and high else "low" if low else "high" if high else ""
            lines.append(line | {"edge": end if lr == best else ""})
    columns = [*by, "variant", rate, "mean", "seeds", "diverged", "unfinished", "best", "edge"]
    return pd.DataFrame(lines, columns=columns)


def at_best_learning_rate(
    runs: pd.DataFrame, *, value: str = "score", by: Sequence[str] = ("depth",), rate: str = "optimizer.lr"
) -> pd.DataFrame:
    """The runs of each variant at its own best rate, with `lr_edge` and, over its whole grid, `lr_diverged`."""
    table: Table = learning_rates(runs, value=value, by=by, rate=rate)
    keys = [*by, "variant"]
    lost = table.groupby(keys, dropna=False)["diverged"].sum().rename("lr_diverged").reset_index()
    best = table[table["best"]][[*keys, rate, "edge"]].rename(columns={"edge": "lr_edge"})
    return runs.merge(best.merge(lost, on=keys), on=[*keys, rate], how="inner")


# --- the same steps, tokens or seconds -------------------------------------------------------------------------------


def at_equal(
    rows: pd.DataFrame,
    runs: pd.DataFrame,
    view: str = "equal-step",
    *,
    metric: str = "val/loss",
    at: float | None = None,
    by: Sequence[str] = ("depth",),
) -> pd.DataFrame:
    """`runs` with `value`, the metric of each run where all of its group are equally far, and `at`, how far that is.

    `equal-step`, `equal-token` or `equal-time` (`seconds` of the run, evaluation included, comparable on one machine
    only). Only runs that are done count, or else one that has just begun or crashed would move the point for all;
    before the first of a group is done, every run that did not diverge does. Without `at` it is the farthest point that
    all of these have reached. Values between two measurements are interpolated linearly, none is extrapolated (NaN).
    """
    if view not in VIEWS:
        raise ValueError(f"no view {view!r}; there is {', '.join(VIEWS)}")
    axis = VIEWS[view]
    curves = {str(name): curve(part, metric, axis) for name, part in rows.groupby("run", sort=False)}
    judged: Table = runs.assign(at=math.nan, value=math.nan)
    for _, group in _groups(judged, by):
        done = group["status"] == "done"
        counted = done if done.any() else group["status"] != "diverged"
        going = [name for name in group.loc[counted, "run"] if len(curves.get(name, ((), ()))[0])]
        point = at if at is not None else min((curves[name][0][-1] for name in going), default=math.nan)
        judged.loc[group.index, "at"] = point
        for index, name in group.loc[group["run"].isin(going), "run"].items():
            judged.loc[index, "value"] = np.interp(point, *curves[name], left=math.nan, right=math.nan)
    return judged


def curve(rows: pd.DataFrame, metric: str, axis: str = "step") -> tuple[np.ndarray, np.ndarray]:
    """Where `metric` was measured in one run, on `axis` and ascending, and the values."""
    table: Table = rows
    measured = table[[axis, metric]].dropna().sort_values(axis, kind="stable")
    return measured[axis].to_numpy(np.float64), measured[metric].to_numpy(np.float64)
