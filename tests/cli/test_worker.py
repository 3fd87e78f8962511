"""Launch and worker as processes: runs end, die, are stopped, and go on as if nothing had happened."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from worker_runs import KEY, NUMPY_WORKER, composed, configured, go, made, opened, rows, weights, when_logged, work

from mhc_exp.config.schema import Config
from mhc_exp.runs import child
from mhc_exp.runs.directory import RunDirectory


@pytest.fixture
def config(tmp_path, monkeypatch) -> Config:
    """A run whose child processes train with numpy and that knows no W&B account."""
    monkeypatch.setattr(child, "_WORKER", NUMPY_WORKER)
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    return configured(tmp_path / "runs")


# --- one run -----------------------------------------------------------------------------------------------------


def test_the_worker_needs_nothing_but_the_run_directory(config, tmp_path):
    run = made(config)
    done = work(run, SHOW_MODULES="1")
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.splitlines()[-1].split()
    assert not {"hydra", "omegaconf", "wandb", "torch", "mlx"} & set(loaded)
    assert run.status()["state"] == "done"
    assert [row["step"] for row in rows(run)] == [0, 5, 10, 15, 20]
    facts = RunDirectory.open(run.path).identity
    assert facts["device"] == "numpy"
    assert len(facts["initial_weights"]) == 64
    assert facts["data"]
    assert facts["flops_per_token"] > 0
    names = {path.name for path in run.path.iterdir()} - {".lock"}
    records = {"metrics.jsonl", "layers.jsonl"}
    assert names == {"config.yaml", "run.json", "status.json", *records, "train.log", "checkpoints", "plots"}


def test_what_a_person_saw_is_in_the_log(config):
    run = made(config)
    done = work(run)
    log = run.log_path.read_text()
    assert done.stdout.splitlines() == [line for line in log.splitlines() if "no plots" not in line]
    assert "step 20/20" in log


def test_without_matplotlib_one_line_says_what_to_type(config):
    done = work(made(config))
    assert done.returncode == 0
    assert done.stderr == "no plots: matplotlib is not installed; type: pip install 'mhc-exp[analysis]'\n"


def test_a_child_shows_its_output_and_writes_it_once(config, capfd):
    result = go(config)
    assert (result.state, result.exit_code) == ("done", 0)
    assert result.score == pytest.approx(opened(config).status()["score"])
    shown = capfd.readouterr().out
    assert shown == opened(config).log_path.read_text()
    assert shown.count("step 20/20") == 1


def test_a_finished_run_is_not_trained_by_the_worker_either(config):
    run = made(config)
    work(run)
    before = run.metrics_path.read_bytes()
    again = work(run)
    assert (again.returncode, again.stdout) == (0, f"{run.name} is done already\n")
    assert run.metrics_path.read_bytes() == before


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["--help"], ["/nonexistent"]])
def test_a_worker_without_a_run_says_so(arguments):
    done = subprocess.run([*NUMPY_WORKER, *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "usage" in done.stderr or "no run.json" in done.stderr


def test_divergence_is_a_result_with_its_own_exit_code(config, monkeypatch):
    monkeypatch.setenv("FAULT", "nan at 13")
    result = go(config)
    assert (result.state, result.exit_code) == ("diverged", 3)
    assert opened(config).status()["step"] == 13
    monkeypatch.delenv("FAULT")
    again = go(config)
    assert (again.state, again.exit_code) == ("diverged", 3)
    assert opened(config).checkpoints.steps() == [10]


# --- deaths ------------------------------------------------------------------------------------------------------


@pytest.mark.fault(row=15)
@pytest.mark.parametrize(
    ("kind", "reason", "in_log"),
    [
        ("kill", "killed by signal 9 (SIGKILL)", "step 10/20"),
        ("segfault", "killed by signal 11 (SIGSEGV)", "Fatal Python error: Segmentation fault"),
        ("exit", "the worker ended with exit code 7", "step 10/20"),
        ("sys.exit", "SystemExit: 9", "SystemExit: 9"),
        ("memory", "MemoryError", "MemoryError"),
        ("raise", "ValueError: no luck today, key ***", "ValueError: no luck today, key ***"),
    ],
)
def test_a_death_is_recorded_with_its_reason_and_the_run_goes_on_bit_for_bit(
    config, tmp_path, monkeypatch, kind, reason, in_log
):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("FAULT", kind)
    monkeypatch.setenv("FAULT_STEP", "17")
    result = go(config)
    assert (result.state, result.exit_code) == ("failed", 1)
    run = opened(config)
    assert run.status()["reason"] == reason
    assert reason in result.message
    assert in_log in run.log_path.read_text()
    monkeypatch.delenv("FAULT_STEP")
    assert go(config).state == "done"
    assert run.status()["reason"] is None
    assert run.status()["attempt"] == 2
    untouched = configured(tmp_path / "untouched")
    go(untouched)
    assert weights(run) == weights(opened(untouched))
    assert rows(run) == rows(opened(untouched))
    assert not [path for path in run.path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_a_damaged_newest_checkpoint_costs_time_and_nothing_else(config, tmp_path, monkeypatch):
    monkeypatch.setenv("FAULT", "kill")
    monkeypatch.setenv("FAULT_STEP", "20")
    longer = dataclasses.replace(config, training=dataclasses.replace(config.training, checkpoint_every=5))
    go(longer)
    run = opened(longer)
    model = run.checkpoints.path(15) / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1])
    monkeypatch.delenv("FAULT_STEP")
    assert go(longer).state == "done"
    assert "set aside as .bad-step_00000015-0" in run.log_path.read_text()
    untouched = dataclasses.replace(longer, runs_root=str(tmp_path / "untouched"))
    go(untouched)
    assert weights(run) == weights(opened(untouched))


# --- stopping ----------------------------------------------------------------------------------------------------


@pytest.mark.fault(row=9)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_launcher_lets_the_child_save_and_stop(config, tmp_path, monkeypatch, number, code):
    monkeypatch.setenv("STEP_SECONDS", "0.1")
    path = RunDirectory.location(config, None)
    when_logged(path, "step  5/20", lambda: os.kill(os.getpid(), number))
    result = go(config)
    assert (result.state, result.exit_code) == ("interrupted", code)
    run = opened(config)
    step = run.status()["step"]
    assert 5 <= step < 20
    assert run.checkpoints.steps()[-1] == step
    monkeypatch.delenv("STEP_SECONDS")
    assert go(config).state == "done"
    untouched = configured(tmp_path / "untouched")
    go(untouched)
    assert weights(run) == weights(opened(untouched))


def test_a_run_that_takes_too_long_is_asked_to_save_and_can_go_on(config, monkeypatch):
    monkeypatch.setenv("STEP_SECONDS", "0.2")
    limited = dataclasses.replace(config, launch=dataclasses.replace(config.launch, timeout=2.5))
    result = go(limited)
    assert (result.state, result.exit_code) == ("interrupted", 143)
    assert "launch.timeout=2.5 s" in result.message
    monkeypatch.delenv("STEP_SECONDS")
    assert go(config).state == "done"


def test_a_run_that_does_not_listen_is_killed_in_the_end(config, monkeypatch):
    monkeypatch.setenv("FAULT", "stubborn")
    monkeypatch.setenv("FAULT_STEP", "1")
    run = made(config)
    assert child.train_in_child(run, timeout=3.0, grace=0.5) == 1
    assert run.status()["state"] == "failed"
    assert run.status()["reason"] == "killed by signal 9 (SIGKILL), after launch.timeout=3 s"


def test_a_child_outlives_its_killed_parent_and_keeps_others_out(config, monkeypatch, tmp_path):
    program = (
        "import sys; from mhc_exp.runs import child; from mhc_exp.runs.directory import RunDirectory\n"
        f"child._WORKER = {NUMPY_WORKER!r}\n"
        "child.train_in_child(RunDirectory.open(sys.argv[1]), timeout=None)"
    )
    run = made(config)
    environment = {**os.environ, "STEP_SECONDS": "0.15"}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(run.path)], env=environment, stdout=subprocess.DEVNULL
    ) as parent:
        when_logged(run.path, "step  5/20", parent.kill).join(60)
    result = go(config)
    assert (result.state, result.exit_code) == ("refused", 2)
    assert f"process {run.status()['pid']} on" in result.message
    while run.owner() is not None:
        time.sleep(0.05)
    assert run.status()["state"] == "done"


@pytest.mark.fault(row=17)
def test_of_several_starts_at_once_exactly_one_trains(config, tmp_path):
    program = (
        "import sys; from mhc_exp.runs import child\n"
        "from mhc_exp.runs.launch import launch; from mhc_exp.config.build import build; import json\n"
        f"child._WORKER = {NUMPY_WORKER!r}\n"
        "result = launch(build(json.load(sys.stdin)), sweep=None, command=[], multirun=False)\n"
        "print(result.exit_code)"
    )
    described = json.dumps(dataclasses.asdict(config))
    environment = {**os.environ, "STEP_SECONDS": "0.05"}
    starts = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, text=True, stdin=-1, stdout=-1)
        for _ in range(3)
    ]
    codes = sorted(start.communicate(described)[0].split()[-1] for start in starts)
    assert set(codes) <= {"0", "2"}
    run = opened(config)
    assert run.status()["attempt"] == 1
    assert [row["step"] for row in rows(run)] == [0, 5, 10, 15, 20]
    assert len(run.metrics_path.read_text().splitlines()) == 5
    assert os.listdir(run.path.parent) == [run.name]


# --- refusals by the worker --------------------------------------------------------------------------------------


@pytest.mark.fault(row=21)
def test_other_data_under_the_same_path_is_refused_and_the_run_is_left_as_it_was(config, tmp_path, monkeypatch):
    text = tmp_path / "book.txt"
    text.write_text("It is a truth universally acknowledged, that a single man. " * 200)
    on_text = dataclasses.replace(config, dataset=composed("dataset=text", f"dataset.path={text}").dataset, name="book")
    monkeypatch.setenv("FAULT", "kill")
    monkeypatch.setenv("FAULT_STEP", "15")
    assert go(on_text).state == "failed"
    monkeypatch.delenv("FAULT_STEP")
    text.write_text("Call me Ishmael. Some years ago, never mind how long precisely. " * 200)
    run = opened(on_text)
    before = run.metrics_path.read_bytes()
    result = go(on_text)
    assert (result.state, result.exit_code) == ("refused", 2)
    assert "sha256" in run.log_path.read_text()
    assert run.status()["state"] == "failed"
    assert run.metrics_path.read_bytes() == before


def test_a_run_that_could_not_begin_leaves_no_directory(config, tmp_path, capfd):
    missing = composed("dataset=text", "dataset.path=/nonexistent/book.txt").dataset
    result = go(dataclasses.replace(config, dataset=missing))
    assert (result.state, result.exit_code) == ("refused", 2)
    assert "/nonexistent/book.txt" in capfd.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_time_limit_gets_its_own_process_even_for_a_single_run(config):
    limited = dataclasses.replace(config, launch=dataclasses.replace(config.launch, mode="auto", timeout=0.01))
    assert go(limited).exit_code != 0
