"""W&B gets every row when it can, and can do no harm when it cannot. Each run of the sink is a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from standin import serving, silent_server

from mhc_exp.config.compose import compose
from mhc_exp.runs.directory import RunDirectory

pytest.importorskip("wandb")

KEY = "ca11ab1e" * 5
ROWS = 20
CORE = "import wandb, os, signal; core = wandb.setup()._connection._proc._process.pid\n"

PROGRAM = """
import sys, time
from mhc_exp.runs.directory import RunDirectory
from mhc_exp.runs.tee import teed
from mhc_exp.sinks import Fanout
from mhc_exp.sinks.jsonl import JsonlSink
from mhc_exp.sinks.wandb import WandbSink

run, state, first, last, between = RunDirectory.open(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:5]), sys.argv[5]
with teed(run.log_path):
    sink = WandbSink()
    sinks = Fanout([JsonlSink(), sink])
    sinks.open(run, last, first)
    assert "wandb" not in sys.modules
    for step in range(first, last):
        sinks.log({"step": step, "train/loss": 1 / (step + 1), "note": "a"})
        if step == first:
            time.sleep(0.2)
            assert "wandb" not in sys.modules, "the first step waits for nobody"
        if step == last - 10 and between:
            while not sink._where:
                time.sleep(0.02)
            exec(between)
    print("all rows logged")
    sinks.close(state)
    print("closed")
    assert "opentelemetry.sdk" not in sys.modules, "wandb's reports of its own use would wait for a silent server"
"""


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    overrides = ["backend=cpu", "depth=3", "variant=mhc", "dataset=increment", f"runs_root={tmp_path / 'runs'}"]
    tracking = ["tracking.init_timeout=3", "tracking.finish_timeout=5", "tracking.tags=[mine]"]
    return RunDirectory.create(compose([*overrides, *tracking]), sweep="depth", command=["mhc_exp"])


def environment(run: RunDirectory, **variables: str) -> dict[str, str]:
    """A home without netrc, none of this machine's W&B settings, and a server that refuses unless one is given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    home = run.path.parents[2] / "home"
    home.mkdir(exist_ok=True)
    return {**kept, "HOME": str(home), "WANDB_BASE_URL": "http://127.0.0.1:9", "PYTHONWARNINGS": "error", **variables}


def mirror(
    run: RunDirectory, *, state: str = "done", rows: tuple[int, int] = (0, ROWS), between: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Send rows through the sink; `between` is executed ten rows before the end, when the tracker runs."""
    command = [sys.executable, "-c", PROGRAM, str(run.path), state, str(rows[0]), str(rows[1]), between]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(run, **variables),
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == "all rows logged\nclosed\n"
    assert len(run.metrics_path.read_text().splitlines()) >= ROWS
    assert not [path for path in run.path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    return done


def recorded(run: RunDirectory) -> list[Path]:
    return sorted((run.path / "wandb").glob("offline-run-*/*.wandb"))


def inspect(file: Path, *arguments: str) -> str:
    wandb = Path(sys.executable).with_name("wandb")
    command = [str(wandb), "leet", "inspect", *arguments, "--json", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def summary(file: Path) -> dict:
    return json.loads(inspect(file, "--summary"))


def history(file: Path) -> list[dict]:
    records = [json.loads(line) for line in inspect(file).splitlines()]
    return [record["history"]["item"] for record in records if record["type"] == "history"]


def test_without_a_key_the_run_is_recorded_offline_and_readable_without_an_account(run):
    done = mirror(run)
    (file,) = recorded(run)
    told = summary(file)
    assert (told["state"], told["exit_code"], told["run_id"]) == ("finished", 0, run.identity["wandb_id"])
    assert (told["project"], told["name"]) == ("mhc-exp", run.name)
    assert set(told["tags"]) == {"mhc", "d3", "cpu", "mine"}
    assert told["config"]["variant"]["mix"]["chart"] == "sinkhorn"
    assert told["config"]["run"]["config_hash"] == run.identity["config_hash"]
    assert [row["step"] for row in history(file)] == list(range(ROWS))
    assert done.stderr.splitlines() == [
        f"wandb: recorded offline; look: wandb leet {run.path}/wandb; upload: wandb sync {file.parent}"
    ]


def test_with_a_key_the_server_gets_group_config_tags_rows_and_exit_code(run):
    with serving() as server:
        done = mirror(run, state="diverged", WANDB_BASE_URL=server.url, WANDB_API_KEY=KEY)
        bucket = server.bucket
        assert (bucket["groupName"], bucket["jobType"], bucket["displayName"]) == ("depth", "train", run.name)
        assert (bucket["project"], bucket["name"]) == ("mhc-exp", run.identity["wandb_id"])
        assert set(bucket["tags"]) == {"mhc", "d3", "cpu", "mine"}
        assert json.loads(bucket["config"])["model"]["value"]["width"] == run.config.model.width
        assert [row["step"] for row in server.history] == list(range(ROWS))
        assert server.history[3]["train/loss"] == 0.25
        assert server.exit_code == 3
        assert KEY.encode() not in server.received
    assert "wandb: http" in done.stderr


def test_rows_of_a_resumed_run_are_not_dropped_although_their_steps_go_back(run):
    mirror(run, state="interrupted")
    mirror(run, rows=(12, ROWS + 12))
    first, second = recorded(run)
    assert [row["step"] for row in history(second)] == list(range(12, ROWS + 12))
    assert summary(first)["run_id"] == summary(second)["run_id"]
    assert (summary(first)["exit_code"], summary(second)["exit_code"]) == (130, 0)


@pytest.mark.fault(row=12)
@pytest.mark.parametrize("server", ["refuses", "never answers"])
def test_a_server_that_cannot_be_reached_costs_no_row_and_no_waiting_in_the_loop(run, server):
    if server == "refuses":
        done = mirror(run, WANDB_API_KEY=KEY)
    else:
        with silent_server() as url:
            done = mirror(run, WANDB_API_KEY=KEY, WANDB_BASE_URL=url)
    (file,) = recorded(run)
    assert [row["step"] for row in history(file)] == list(range(ROWS))
    assert done.stderr.count("this run is recorded offline") == 1
    assert [path.name for path in (run.path / "wandb").glob("*run-*")] == [file.parent.name]
    log = run.log_path.read_text()
    assert log.index("all rows logged") < log.index("this run is recorded offline")


@pytest.mark.parametrize(
    ("variables", "files"),
    [
        ({"WANDB_MODE": "disabled", "WANDB_API_KEY": KEY}, 0),
        ({"WANDB_MODE": "offline", "WANDB_API_KEY": KEY}, 1),
        ({"WANDB_MODE": "online"}, 1),
    ],
    ids=["disabled", "offline", "online without a key"],
)
def test_the_environment_can_keep_a_run_private(run, variables, files):
    with serving() as server:
        done = mirror(run, WANDB_BASE_URL=server.url, **variables)
        assert server.paths == []
    assert len(recorded(run)) == files
    assert ("type: wandb login" in done.stderr) == ("WANDB_API_KEY" not in variables)


def test_a_key_in_netrc_is_found(run):
    with serving() as server:
        home = Path(environment(run)["HOME"])
        (home / ".netrc").write_text(f"machine {server.url.removeprefix('http://')}\n  login user\n  password {KEY}\n")
        (home / ".netrc").chmod(0o600)
        mirror(run, WANDB_BASE_URL=server.url)
        assert len(server.history) == ROWS


@pytest.mark.fault(row=13)
def test_a_killed_tracker_is_reported_once_and_training_goes_on(run):
    done = mirror(run, between=CORE + "os.kill(core, signal.SIGKILL); time.sleep(0.5)")
    assert done.stderr.count("nothing more is sent, training continues") == 1
    assert str(run.metrics_path) in done.stderr


@pytest.mark.fault(row=13)
def test_a_tracker_that_hangs_is_left_behind_and_the_process_ends(run):
    done = mirror(run, rows=(0, 3000), between=CORE + "os.kill(core, signal.SIGSTOP); print(core, file=sys.stderr)")
    assert "does not answer" in done.stderr
    assert str(run.metrics_path) in done.stderr
    core = int(next(line for line in done.stderr.splitlines() if line.isdigit()))
    with pytest.raises(ProcessLookupError):
        os.kill(core, 0)


def test_without_the_package_one_line_says_what_to_type(run):
    program = PROGRAM.replace("import sys, time\n", "import sys, time\nsys.modules['wandb'] = None\n")
    program = program.replace('assert "wandb" not in sys.modules', "pass #")
    command = [sys.executable, "-c", program, str(run.path), "done", "0", str(ROWS), ""]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment(run), check=True)
    assert done.stderr == "wandb: wandb is not installed, so nothing is sent; type: pip install 'mhc-exp[wandb]'\n"
    assert done.stdout == "all rows logged\nclosed\n"
