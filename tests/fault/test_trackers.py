"""Rows 12 and 13: whatever happens to the tracker, the run is the run without one, and it ends in time."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from harness import configured, rows, weights
from standin import serving, silent_server

from mhc_exp.analysis.rows import read_records
from mhc_exp.config.schema import Config
from mhc_exp.runs.directory import RunDirectory

pytest.importorskip("wandb")

KEY = "ca11ab1e" * 5
WORKER = [sys.executable, str(Path(__file__).with_name("tracked_worker.py"))]
WORDS = ("training.steps=40", "training.log_every=1", "tracking=wandb")
TRACKED = ("tracking.wandb=online", "tracking.init_timeout=3", "tracking.finish_timeout=3")
SLOW = ("refuses", "never answers", "answers after 5 s")
END = 3 + 3 + 3 + 3 + 8
"""Seconds that may pass after the last step: both timeouts, twice the grace of the sink, and a busy machine."""
WAITED = 3.0
"""Seconds between two rows that are more than a busy machine: somebody waited for the tracker (its first timeout)."""


@dataclass(frozen=True)
class Tracked:
    """A run with a tracker that has ended."""

    config: Config
    code: int
    log: str
    seconds_after: float
    """From the last row to the end of the process."""
    longest_gap: float
    """Between two rows."""


@contextlib.contextmanager
def server(kind: str) -> Iterator[str]:
    """The address of a server that misbehaves."""
    if kind == "refuses":
        yield "http://127.0.0.1:9"
    elif kind == "never answers":
        with silent_server() as url:
            yield url
    else:
        with serving() as standin:
            standin.http_status = 500 if kind == "answers 500" else 200
            standin.delay = 5.0 if kind == "answers after 5 s" else 0.0
            yield standin.url


def tracked(root: Path, url: str, words: tuple[str, ...] = TRACKED, **variables: str) -> Tracked:
    config = configured(root / "tracked", *WORDS, *words)
    run = RunDirectory.create(config, sweep=None, command=["mhc_exp"])
    home = root / "home"
    home.mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment = {**kept, "HOME": str(home), "WANDB_BASE_URL": url, "WANDB_API_KEY": KEY, "STEP_SECONDS": "0.02"}
    done = subprocess.run([*WORKER, str(run.path)], env={**environment, **variables}, capture_output=True, timeout=120)
    ended = time.time()
    seconds = read_records(run.path).series("seconds")[1]
    gaps = [after - before for before, after in pairwise(seconds)]
    last_row = run.metrics_path.stat().st_mtime
    return Tracked(config, done.returncode, run.log_path.read_text(), ended - last_row, max(gaps))


@pytest.fixture(scope="module")
def untracked(tmp_path_factory: pytest.TempPathFactory) -> Config:
    config = configured(tmp_path_factory.mktemp("untracked"), *WORDS, "tracking.wandb=off")
    run = RunDirectory.create(config, sweep=None, command=["mhc_exp"])
    subprocess.run([*WORKER, str(run.path)], check=True, capture_output=True, timeout=120)
    return config


def unlike(run: Tracked, untracked: Config) -> list[str]:
    wrong = [f"exit code {run.code}"] * (run.code != 0) + ["other rows"] * (rows(run.config) != rows(untracked))
    wrong += ["other weights"] * (weights(run.config) != weights(untracked)) + ["a traceback"] * (
        "Traceback" in run.log
    )
    return wrong + [f"{run.seconds_after:.0f} s to the end"] * (run.seconds_after > END)


@pytest.mark.fault(row=12)
@pytest.mark.parametrize("kind", ["answers 500", *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOW)])
def test_a_run_whose_tracker_cannot_be_reached_is_the_run_without_one(
    tmp_path: Path, untracked: Config, kind: str
) -> None:
    with server(kind) as url:
        run = tracked(tmp_path, url)
    assert unlike(run, untracked) == []
    assert run.longest_gap < WAITED
    assert run.log.count("this run is recorded offline") + run.log.count("not every row was sent") >= 1


@pytest.mark.slow
@pytest.mark.fault(row=12, mutation=True)
def test_a_loop_that_waits_for_its_tracker_would_be_noticed(tmp_path: Path, untracked: Config) -> None:
    with server("never answers") as url:
        run = tracked(tmp_path, url, ACT="wait_in_the_loop")
    assert run.longest_gap > WAITED


@pytest.mark.slow
@pytest.mark.fault(row=13)
@pytest.mark.parametrize("act", ["kill_service", "stop_service"])
def test_a_run_whose_tracker_is_killed_or_stopped_is_the_run_without_one_and_the_next_is_tracked(
    tmp_path: Path, untracked: Config, act: str
) -> None:
    words = ("tracking.wandb=offline", *TRACKED[1:])
    run = tracked(tmp_path, "http://127.0.0.1:9", words, ACT=act)
    assert (unlike(run, untracked), run.log.count("not every row was sent")) == ([], 1)
    after = tracked(tmp_path / "next", "http://127.0.0.1:9", words)
    assert (unlike(after, untracked), after.log.count("recorded offline")) == ([], 1)


LATENCY = """
import os, signal, sys, time
from mhc_exp.runs.directory import RunDirectory
from mhc_exp.sinks.wandb import WandbSink
sink = WandbSink()
sink.open(RunDirectory.open(sys.argv[1]), 9, 0)
sink.log({"step": 0}), sink.log({"step": 1})
while not sink._where:
    time.sleep(0.02)
os.kill(sys.modules["wandb"].setup()._connection._proc._process.pid, getattr(signal, sys.argv[2]))
took = []
for step in range(2, 6000):
    before = time.monotonic()
    sink.log({"step": step, "text": "x" * 200})
    took.append(time.monotonic() - before)
print(sorted(took)[-6])
sink.close("done")
"""
RAW = """
import itertools, os, sys, time, wandb
tracked = wandb.init(mode="offline", dir=sys.argv[1], settings=wandb.Settings(silent=True))
service = wandb.setup()._connection._proc._process
service.kill()
service.wait()
until = time.monotonic() + 60  # rows are sent by a thread, which may be late to see that nobody listens
try:
    for step in itertools.takewhile(lambda _: time.monotonic() < until, itertools.count()):
        tracked.log({"step": step})
except BaseException as error:
    print(type(error).__name__, flush=True)
os._exit(0)
"""


def python(program: str, root: Path, *arguments: str) -> str:
    environment = {**os.environ, "HOME": str(root), "WANDB_MODE": "offline"}
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.slow
@pytest.mark.fault(row=13)
@pytest.mark.parametrize("number", ["SIGKILL", "SIGSTOP"])
def test_logging_to_a_dead_or_stopped_tracker_takes_no_time(
    tmp_path: Path, number: str, trials: Callable[[int], None]
) -> None:
    """Of 5998 rows five may coincide with this process losing the processor to another."""
    trials(5998)
    config = configured(tmp_path, *WORDS, "tracking.wandb=offline", *TRACKED[1:])
    run = RunDirectory.create(config, sweep=None, command=["mhc_exp"])
    assert float(python(LATENCY, tmp_path, str(run.path), number)) < 0.05


@pytest.mark.fault(row=13, mutation=True)
def test_calling_wandb_in_the_loop_would_be_noticed(tmp_path: Path) -> None:
    assert python(RAW, tmp_path, str(tmp_path)) != ""
