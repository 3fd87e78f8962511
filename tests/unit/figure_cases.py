"""Tables made by hand, and how to look at what is drawn of them."""

from __future__ import annotations

import math
from typing import Any

import pytest

pytest.importorskip("pandas")
pytest.importorskip("matplotlib")

import pandas as pd

from mhc_exp.analysis import style
from mhc_exp.analysis.figures import FIGURES, Picture, Tables, pictures
from mhc_exp.analysis.rows import COLUMNS

STEPS = (0, 10, 20)
HISTORY = ("history_reads", "history_weights")
"""Pictures of wirings that read earlier outputs."""


def run(
    variant: str = "baseline", depth: int = 12, seed: int = 0, lr: float = 1e-3, status: str = "done", **more: Any
) -> dict[str, Any]:
    """A line of `runs`; the loss of the run at step s is `level` + 1 - s / 20."""
    level = more.pop("level", 2.0 + 0.1 * seed)
    name = more.pop("run", f"{variant}-d{depth}-s{seed}-{lr:g}-" + "-".join(map(str, more.values())))
    line = {"run": name, "variant": variant, "depth": depth, "seed": seed, "optimizer.lr": lr, "status": status}
    line |= {"backend": "cpu", "dataset": "increment", "score": level, "step": 20, "chance": math.log(8)}
    line |= {"parameters": 100, "flops_per_token": 1.0, "config_hash": name, "device": "cpu"}
    return {**line, **more}


def tables(*lines: dict[str, Any], steps: dict[str, tuple[int, ...]] | None = None) -> Tables:
    """Tables of `lines`; `steps` says for a run at which it was measured, where not at all of `STEPS`."""
    rows, layers = [], []
    for line in lines:
        streams = line["variant"] != "baseline"
        for step in (steps or {}).get(line["run"], STEPS):
            loss = line["score"] + 1 - step / 20
            row = {"run": line["run"], "step": step, "seconds": 0.1 * step * line["depth"], "val/loss": loss}
            row |= {"train/grad_norm": 1 + loss, "perf/step_seconds": 0.01 * line["depth"]}
            row |= {"val/accuracy": 1 / (1 + loss)}
            if streams:
                row |= {"gain/forward_amax_max": 1.0 + step, "streams/cosine": 0.9, "streams/effective": 2.0}
                row |= {"streams/dominant_share": 0.3, "grad/tangent_share": 0.1}
                row |= {"alpha/read": 0.01, "alpha/write": 0.02, "alpha/mix": 0.03}
                layers += [layer(line["run"], step, connection) for connection in range(2 * line["depth"])]
            rows.append(row)
    measured = pd.DataFrame(rows, columns=["run", *COLUMNS])
    return Tables(measured, pd.DataFrame([*lines], columns=None if lines else ["run", "variant"]), pd.DataFrame(layers))


def layer(name: str, step: int, connection: int) -> dict[str, Any]:
    return {
        **{"run": name, "step": step, "connection": connection, "mix/diagonal": connection + 100 * step},
        **{"mix/sigma_1": 1.0, "mix/sigma_2": 1 / (1 + connection)},
        **{"mix/entry_min": -0.1, "mix/entry_q25": 0.1, "mix/entry_median": 0.2, "mix/entry_q75": 0.4},
        **{"mix/entry_max": 0.9, "grad/read": 0.1, "grad/write": 0.2, "grad/mix": 0.3},
    }


def drawn(name: str, given: Tables, panel: int = 0) -> Any:
    """Axes with one panel of the picture `name`."""
    picture = made(name, given)
    _, (axes,) = style.figure("")
    picture.panels[panel].draw(axes)
    return axes


def made(name: str, given: Tables) -> Picture:
    (figure,) = [figure for figure in FIGURES if figure.name == name]
    picture = figure.picture(given)
    assert isinstance(picture, Picture), picture
    return picture


def reason(name: str, given: Tables) -> str:
    return pictures(given)[1][name]


def line(axes: Any, label: str) -> Any:
    (found,) = [line for line in axes.lines if line.get_label() == label]
    return found


def labels(artists: Any) -> list[str]:
    return [artist.get_label() for artist in artists if not artist.get_label().startswith("_")]


def sweep(variants: tuple[str, ...] = ("baseline", "mhc"), seeds: int = 3) -> list[dict[str, Any]]:
    return [run(variant, depth, seed) for variant in variants for depth in (12, 24) for seed in range(seeds)]
