"""`mhc-exp upload`: a run on disk becomes one W&B run, however often, and whatever was there before."""

from __future__ import annotations

import json
import math
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from standin import Standin, serving

pytest.importorskip("wandb")
pd = pytest.importorskip("pandas")

from wandb_cases import KEY, READ, environment, python, same, same_runs, sweep  # noqa: E402

from mhc_exp.analysis import load_runs  # noqa: E402
from mhc_exp.runs.directory import RunDirectory  # noqa: E402


@pytest.fixture
def server():
    with serving() as standin:
        yield standin


def record(run: RunDirectory, state: str, *parts: tuple[int, int]) -> None:
    """Rows as the worker leaves them; a second part is a resume from an earlier checkpoint."""
    with run.metrics_path.open("a") as file:
        for first, last in parts:
            for step in range(first, last):
                row = {
                    "step": step,
                    "tokens": 256 * step,
                    "seconds": step / 3 + len(parts),
                    "train/loss": 1 / (step + 3),
                }
                row |= {"val/loss": 5 * math.exp(-step / 7)} if step % 4 == 0 else {}
                file.write(json.dumps(row) + "\n")
    last = parts[-1][1] - 1
    run.update_status(state, step=last, score=5 * math.exp(-(last // 4 * 4) / 7), host=socket.gethostname())
    run.update_status(reason=None, ended="2026-11-22")


def upload(server: Standin | None, directory: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    given = {"WANDB_API_KEY": KEY, **({"WANDB_BASE_URL": server.url} if server else {}), **variables}
    command = [sys.executable, "-m", "mhc_exp", "upload", *words]
    environ = environment(directory / "home", **{name: value for name, value in given.items() if value})
    done = subprocess.run(
        command, cwd=directory, env=environ, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    )
    assert KEY not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def steps(server: Standin, run: RunDirectory) -> list[int]:
    return [row["step"] for row in server.runs[run.identity["wandb_id"]]["history"]]


@pytest.mark.fault(row=14)
def test_a_project_filled_by_upload_is_the_directory_cell_by_cell_also_the_second_time(
    server: Standin, tmp_path: Path
) -> None:
    first, second = sweep(tmp_path / "runs")
    record(first, "done", (0, 30), (20, 40))  # resumed: ten rows are there twice
    record(second, "diverged", (0, 23))
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    done = upload(server, tmp_path, "runs")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split(";")[0] for line in done.stdout.splitlines()] == [
        f"{first.name}: done, sent 40 rows",
        f"{second.name}: diverged, sent 23 rows",
    ]
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before, "runs are only read"
    kept = server.runs[second.identity["wandb_id"]]
    assert (kept["exit_code"], kept["summary"]["status"], kept["groupName"]) == (3, "diverged", "depth")
    assert (kept["jobType"], set(kept["tags"])) == ("train", {"mhc", "d3", "cpu"})
    assert kept["summary"]["score"] == second.status()["score"]
    rows, runs = load_runs(tmp_path / "runs")
    again = upload(server, tmp_path, "runs")
    assert (again.returncode, again.stdout.count("already there")) == (0, 2)
    there = [str(tmp_path / "rows"), str(tmp_path / "runs.pickle")]
    online = environment(tmp_path / "home", WANDB_BASE_URL=server.url, WANDB_API_KEY=KEY)
    python(READ, "wandb://local/mhc-exp", *there, env=online, cwd=tmp_path)
    same(rows, pd.read_pickle(there[0]))
    same_runs(runs, pd.read_pickle(there[1]))
    assert len(server.history) == 63
    assert KEY.encode() not in server.received


@pytest.mark.fault(row=14)
def test_an_upload_that_was_cut_off_is_completed_and_sends_nothing_twice(server: Standin, tmp_path: Path) -> None:
    run, other = sweep(tmp_path / "runs")
    record(run, "done", (0, 40))
    record(other, "done", (0, 40))
    assert upload(server, tmp_path).returncode == 0
    for standing, left in ((run, 25), (other, 40)):  # in the middle of the rows; between the last row and the end
        kept = server.runs[standing.identity["wandb_id"]]
        kept["history"], kept["summary"], kept["exit_code"] = kept["history"][:left], {}, None
    server.history.clear()
    done = upload(server, tmp_path)
    assert done.returncode == 0
    assert f"{run.name}: done, sent 15 rows after the 25 that were there" in done.stdout
    assert f"{other.name}: done, sent 0 rows after the 40 that were there" in done.stdout
    for standing in (run, other):
        assert steps(server, standing) == [*range(40)]
        assert server.runs[standing.identity["wandb_id"]]["exit_code"] == 0
    assert len(server.history) == 15


def test_a_run_that_differs_stays_until_a_person_says_replace(server: Standin, tmp_path: Path) -> None:
    run, _ = sweep(tmp_path / "runs")
    ident = run.identity["wandb_id"]
    record(run, "interrupted", (0, 30))
    assert upload(server, tmp_path).returncode == 0
    record(run, "done", (20, 40))
    run.metrics_path.write_text(run.metrics_path.read_text().replace('"seconds": 8.', '"seconds": 9.'))
    refused = upload(server, tmp_path)
    assert refused.returncode == 1
    assert "W&B has other rows of this run (30, " in refused.stdout
    assert "--replace" in refused.stdout
    assert (steps(server, run), server.deleted) == ([*range(30)], [])
    assert upload(server, tmp_path, "--replace").returncode == 0
    assert server.deleted == [ident]
    (fresh,) = server.runs
    assert fresh.startswith(f"{ident}-")
    assert [row["step"] for row in server.runs[fresh]["history"]] == [*range(40)]
    assert "already there" in upload(server, tmp_path).stdout
    assert [*server.runs] == [fresh]


@pytest.mark.parametrize("kept", [40, 25])
@pytest.mark.parametrize("place", ["a-backup", "z-backup"])
def test_a_run_and_its_backup_are_one_run(server: Standin, tmp_path: Path, place: str, kept: int) -> None:
    run, _ = sweep(tmp_path / "runs")
    record(run, "done", (0, 40))
    copy = tmp_path / "runs" / place
    shutil.copytree(run.path, copy)
    lines = run.metrics_path.read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(lines[:kept]))
    told = upload(server, tmp_path, "--dry-run", WANDB_API_KEY="")
    assert told.stdout.splitlines()[-1] == "nothing was sent; without --dry-run 1 run would be"
    for answer in ("done, sent 40 rows", "already there"):
        done = upload(server, tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert answer in done.stdout
        assert f"{run.name}: skipped, a copy of runs/" in done.stdout
        assert steps(server, run) == [*range(40)]
    assert len(server.history) == 40


def test_another_run_under_the_same_id_is_refused(server: Standin, tmp_path: Path) -> None:
    run, _ = sweep(tmp_path / "runs")
    record(run, "done", (0, 40))
    copy = shutil.copytree(run.path, tmp_path / "runs" / "backup")
    other = run.metrics_path.read_text().replace('"tokens": 0', '"tokens": 1').splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(other[:30]))
    done = upload(server, tmp_path)
    assert done.returncode == 1
    assert "refused, it has the id of, and other rows than, runs/depth/" in done.stdout
    assert "(runs/backup)" in done.stdout
    assert steps(server, run) == [*range(40)]


@pytest.mark.parametrize("config", ['{"a": 1}', '{"tracking": 3}', '"text"', '{"variant": "mhc"}'])
def test_a_configuration_that_says_too_little_is_passed_over(tmp_path: Path, config: str) -> None:
    run, _ = sweep(tmp_path / "runs")
    record(run, "done", (0, 5))
    (run.path / "run.json").write_text(f'{{"name": "{run.name}", "config": {config}}}')
    done = upload(None, tmp_path, "--dry-run")
    assert done.returncode == 0
    assert f"{run.name}: skipped, its run.json is missing or damaged" in done.stdout


def test_rows_that_w_and_b_still_takes_in_are_not_sent_again(server: Standin, tmp_path: Path) -> None:
    run, _ = sweep(tmp_path / "runs")
    record(run, "done", (0, 40))
    upload(server, tmp_path)
    server.runs[run.identity["wandb_id"]]["summary"] = {}
    server.late = 5
    done = upload(server, tmp_path)
    assert done.returncode == 1
    assert "W&B has not taken in all that it was sent (35 of 40 rows); wait a minute" in done.stdout
    assert steps(server, run) == [*range(40)]


def test_runs_that_are_not_ready_are_passed_over_with_a_word(server: Standin, tmp_path: Path) -> None:
    running, damaged = sweep(tmp_path / "runs")
    record(running, "running", (0, 5))
    record(damaged, "done", (0, 5))
    (damaged.path / "run.json").write_text("{")
    with running.lock():
        done = upload(server, tmp_path)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        f"{running.name}: skipped, it is still running",
        f"{damaged.name}: skipped, its run.json is missing or damaged",
    ]
    assert server.runs == {}
    killed = upload(server, tmp_path)
    assert f"{running.name}: killed, sent 5 rows" in killed.stdout
    assert server.runs[running.identity["wandb_id"]]["exit_code"] == 1


def test_another_entity_and_project_and_what_would_be_sent_without_asking_anybody(
    server: Standin, tmp_path: Path
) -> None:
    run, _ = sweep(tmp_path / "runs")
    record(run, "done", (0, 4))
    words = ("--entity", "them", "--project", "theirs")
    told = upload(server, tmp_path, *words, "--dry-run", WANDB_API_KEY="")
    assert (told.returncode, server.paths) == (0, [])
    assert f"{run.name}: done, would send 4 rows to them/theirs/{run.identity['wandb_id']}" in told.stdout
    assert told.stdout.splitlines()[-1] == "nothing was sent; without --dry-run 1 run would be"
    assert upload(server, tmp_path, *words).returncode == 0
    assert (server.bucket["entity"], server.bucket["project"]) == ("them", "theirs")


@pytest.mark.parametrize(
    ("words", "variables", "answer"),
    [
        ((), {"WANDB_API_KEY": ""}, "type: wandb login, or set the environment variable WANDB_API_KEY"),
        ((), {"WANDB_MODE": "offline"}, "WANDB_MODE=offline forbids to send anything; type: unset WANDB_MODE"),
        (("wandb://a/b",), {}, "wandb://a/b is in W&B already; type the directory of a run or of many"),
        (("nowhere",), {}, "no such file or directory: nowhere"),
    ],
    ids=["no key", "private", "remote", "nowhere"],
)
def test_what_cannot_be_sent_is_answered_in_one_line(
    server: Standin, tmp_path: Path, words: tuple[str, ...], variables: dict[str, str], answer: str
) -> None:
    run, _ = sweep(tmp_path / "runs")
    record(run, "done", (0, 4))
    done = upload(server, tmp_path, *words, **variables)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert answer in done.stderr
    assert server.runs == {}


def test_a_server_that_refuses_the_key_is_a_line_and_an_exit_code(server: Standin, tmp_path: Path) -> None:
    run, _ = sweep(tmp_path / "runs")
    record(run, "done", (0, 4))
    server.http_status = 401
    done = upload(server, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
