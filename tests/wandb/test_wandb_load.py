"""What was sent to W&B comes back as the table that the run directory gives, from a project and from offline files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from standin import serving

pytest.importorskip("wandb")
pd = pytest.importorskip("pandas")

from mhc_exp.analysis import load_runs  # noqa: E402
from mhc_exp.analysis.rows import COLUMNS  # noqa: E402
from mhc_exp.config.compose import compose  # noqa: E402
from mhc_exp.runs.directory import RunDirectory  # noqa: E402

KEY = "ca11ab1e" * 5

WRITE = """
import math, sys
from mhc_exp.runs.directory import RunDirectory
from mhc_exp.sinks import Fanout
from mhc_exp.sinks.jsonl import JsonlSink
from mhc_exp.sinks.wandb import WandbSink

for path, state, first, last in zip(*[iter(sys.argv[1:])] * 4):
    run, sinks = RunDirectory.open(path), Fanout([JsonlSink(), WandbSink()])
    sinks.open(run, int(last), int(first))
    run.update_status(state="running")
    for step in range(int(first), int(last)):
        row = {"step": step, "tokens": 256 * step, "seconds": step / 3, "train/nonfinite_total": 0}
        row |= {"train/loss": 5 * math.exp(-step / 7), "train/lr": 1e-3 / (step + 1)} if step else {}
        held_out = {"val/loss": 5 * math.exp(-step / 7), "gain/single_forward_amax_max": 1 + 1e-15}
        row |= held_out if step % 4 == 0 else {}
        row |= {"nonfinite": "train/loss=nan"} if state == "diverged" and step == int(last) - 1 else {}
        sinks.log(row)
    sinks.close(state)
    run.update_status(state=state, step=int(last) - 1, score=5 * math.exp(-((int(last) - 1) // 4 * 4) / 7))
"""

READ = """
import sys
from mhc_exp.analysis import load_runs
rows, runs = load_runs(sys.argv[1])
rows.to_pickle(sys.argv[2])
runs.to_pickle(sys.argv[3])
"""

CONFIG = ["config_hash", "variant", "depth", "backend", "seed", "optimizer.lr", "variant.streams", "training.tokens"]
IDENTITY = [
    *("run", "status", "sweep", "score", "step", "tokens", "seconds", "rows", "commit"),
    *("body_parameters", "parameters", "flops_per_token", "flops", "tokens_per_step", "total_steps", "chance"),
]


def environment(home: Path, **variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    home.mkdir(exist_ok=True)
    return {**kept, "HOME": str(home), "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_SILENT": "true", **variables}


def python(script: str, *arguments: str, **options) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=120, check=False, **options
    )
    assert done.returncode == 0, done.stderr


def sweep(root: Path) -> list[RunDirectory]:
    """Two runs of one sweep with the facts that a worker adds."""
    runs = []
    for variant in ("baseline", "mhc"):
        overrides = ["backend=cpu", "depth=3", f"variant={variant}", "dataset=increment", f"runs_root={root}"]
        run = RunDirectory.create(compose(overrides), sweep="depth", command=["mhc_exp"])
        run.add_facts(body_parameters=1000, connection_parameters=24, flops_per_token=6.0e3, device="numpy")
        run.add_facts(total_steps=40, tokens_per_step=256, floor=None, chance=2.5)
        runs.append(run)
    return runs


def same(mine: pd.DataFrame, theirs: pd.DataFrame) -> None:
    assert [*mine.columns] == [*theirs.columns]
    assert (tuple(mine.columns[1 : len(COLUMNS) + 1]), mine.columns[0]) == (COLUMNS, "run")
    key = ["run", "step"]
    mine, theirs = (table.sort_values(key, ignore_index=True) for table in (mine, theirs))
    pd.testing.assert_frame_equal(mine, theirs, check_exact=True)


def same_runs(mine: pd.DataFrame, theirs: pd.DataFrame, columns: list[str]) -> None:
    one, other = (table.set_index("run", drop=False).sort_index()[columns] for table in (mine, theirs))
    pd.testing.assert_frame_equal(one, other, check_dtype=False)


def test_a_project_gives_the_table_of_the_directory_cell_by_cell(tmp_path: Path) -> None:
    first, second = sweep(tmp_path / "runs")
    with serving() as server:
        online = environment(tmp_path / "home", WANDB_BASE_URL=server.url, WANDB_API_KEY=KEY)
        python(WRITE, str(first.path), "done", "0", "40", str(second.path), "diverged", "0", "23", env=online)
        there = [str(tmp_path / "rows"), str(tmp_path / "runs.pickle")]
        python(READ, "wandb://local/mhc-exp", *there, env=online, cwd=tmp_path)
        one = [str(tmp_path / "one row"), str(tmp_path / "one run")]
        python(READ, f"wandb://local/mhc-exp/{first.identity['wandb_id']}", *one, env=online, cwd=tmp_path)
    rows, runs = load_runs(tmp_path / "runs")
    assert len(rows) == 63
    same(rows, pd.read_pickle(there[0]))
    same_runs(runs, pd.read_pickle(there[1]), CONFIG + IDENTITY)
    assert pd.read_pickle(one[1])["run"].tolist() == [first.name]
    assert set(runs["status"]) == {"done", "diverged"}


def test_offline_files_give_the_table_of_the_directory_also_of_a_resumed_run(tmp_path: Path) -> None:
    first, second = sweep(tmp_path / "runs")
    offline = environment(tmp_path / "home")
    python(WRITE, str(first.path), "interrupted", "0", "30", str(second.path), "diverged", "0", "23", env=offline)
    python(WRITE, str(first.path), "done", "20", "40", env=offline)
    rows, runs = load_runs(tmp_path / "runs")
    recordings = sorted((tmp_path / "runs").rglob("*.wandb"))
    assert len(recordings) == 3
    copied = tmp_path / "copies"
    for number, file in enumerate(recordings):
        (copied / f"offline-run-{number}").mkdir(parents=True)
        (copied / f"offline-run-{number}" / file.name).write_bytes(file.read_bytes())
    for source in (copied, str(tmp_path / "runs" / "**" / "*.wandb"), recordings):
        told, of_runs = load_runs(source)
        same(rows, told)
        columns = [column for column in CONFIG + IDENTITY if column != "sweep"]
        same_runs(runs, of_runs, columns)
    assert json.loads(first.status_path.read_text())["state"] == "done"


def test_a_recording_cut_off_anywhere_loads_what_is_whole(tmp_path: Path) -> None:
    first, _ = sweep(tmp_path / "runs")
    python(WRITE, str(first.path), "done", "0", "40", env=environment(tmp_path / "home"))
    (file,) = (tmp_path / "runs").rglob("*.wandb")
    cut = tmp_path / "run-cut.wandb"
    cut.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    rows, runs = load_runs(cut)
    assert 0 < len(rows) < 40
    assert runs["status"].tolist() == ["running"]
