"""One line per wiring from the runs of `sweep=wirings`: loss against the baseline, cost, what it does to the streams.

python -m mhc_exp -m sweep=wirings tracking=local     # 102 runs
python benchmarks/wirings.py runs/wirings [--csv FILE]
python benchmarks/wirings.py runs/wirings --summary   # the differences alone, one column for each dataset and depth
"""

from __future__ import annotations

import argparse
from typing import Any

import pandas as pd

from mhc_exp.analysis import load_runs
from mhc_exp.analysis.statistics import paired

MEASURED = {
    "gain/forward_amax_max": "largest gain, forward",
    "gain/backward_amax_max": "backward",
    "mix/identity_distance": "H_res from I",
    "streams/effective": "streams read",
    "streams/cosine": "cosine of streams",
}
"""Columns of the last row of a run that has them -> heading."""
STEP = "perf/step_seconds"
KEPT = ("run", "variant", "depth", "dataset", "seed", "status", "score", "body_parameters", "connection_parameters")


def main() -> None:
    """Print a table for each dataset and depth, best first, or one of all; with --csv also one line per run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="+")
    parser.add_argument("--csv")
    parser.add_argument("--summary", action="store_true")
    arguments = parser.parse_args()
    rows, runs = load_runs(arguments.source)
    ends = _last(rows)
    if arguments.csv:
        runs[list(KEPT)].merge(ends, on="run", how="left").to_csv(arguments.csv, index=False, float_format="%.6g")
    if arguments.summary:
        _summarise(runs[runs["status"] == "done"])
        return
    for (dataset, depth), group in runs.groupby(["dataset", "depth"]):
        print(f"\n{dataset}, {depth} blocks, {len(group)} runs: {_counts(group)}\n")
        _print(group[group["status"] == "done"], ends)


def _summarise(runs: Any) -> None:
    """Mean difference from the baseline and its standard error; ordered by the first column."""
    columns = {}
    for (dataset, depth), group in runs.sort_values("dataset", ascending=False).groupby(
        ["dataset", "depth"], sort=False
    ):
        lines = paired(group, by=("dataset", "depth")).sort_values("mean").to_dict("records")
        baseline = group[group["variant"] == "baseline"]["score"].mean()
        columns[f"{dataset}, {depth} blocks (baseline {baseline:.4f})"] = {
            line["variant"]: f"{line['mean']:+.4f} ± {line['se']:.4f}" for line in lines
        }
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    print("| " + " | ".join(["wiring", *columns]) + " |\n|" + "---|" * (1 + len(columns)))
    for name in names:
        print("| " + " | ".join([f"`{name}`", *(column.get(name, "") for column in columns.values())]) + " |")


def _counts(runs: Any) -> str:
    return ", ".join(f"{count} {status}" for status, count in runs["status"].value_counts().items())


def _last(rows: pd.DataFrame) -> pd.DataFrame:
    """The last value of each measured column, and the median time of a step, by run."""
    runs = rows.groupby("run")
    return runs[[name for name in MEASURED if name in rows]].last().join(runs[STEP].median()).reset_index()


def _print(runs: Any, ends: pd.DataFrame) -> None:
    compared = paired(runs, by=("dataset", "depth")).sort_values("mean")
    means = runs[["run", "variant"]].merge(ends, on="run").drop(columns="run").groupby("variant").mean()
    compared_in = ["difference", "SE", "95 % interval", "seeds"]
    headings = ["wiring", *compared_in, "s a step", "parameters", "FLOPs", *MEASURED.values()]
    print("| " + " | ".join(headings) + " |\n|" + "---|" * len(headings))
    for line in compared.to_dict("records"):
        cells = [f"`{line['variant']}`", f"{line['mean']:+.4f}", f"{line['se']:.4f}"]
        cells += [f"{line['low']:+.4f} to {line['high']:+.4f}", f"{line['agree']} of {line['seeds']}"]
        own = means.loc[line["variant"]] if line["variant"] in means.index else {}
        cells += [_short(own.get(STEP))]
        cells += [f"{line['parameters_percent']:+.1f} %", f"{line['flops_percent']:+.1f} %"]
        cells += [_short(own.get(name)) for name in MEASURED]
        print("| " + " | ".join(cells) + " |")


def _short(value: float | None) -> str:
    return "" if value is None or pd.isna(value) else f"{value:.4g}"


if __name__ == "__main__":
    main()
