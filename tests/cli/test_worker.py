"""Launch and worker as processes: runs end, die, are stopped, and go on as if nothing had happened."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mhc_exp.analysis.rows import read_records
from mhc_exp.config.compose import compose
from mhc_exp.config.schema import Config
from mhc_exp.runs import child
from mhc_exp.runs.directory import RunDirectory
from mhc_exp.runs.launch import Result, launch

NUMPY_WORKER = [sys.executable, "-X", "faulthandler", str(Path(__file__).with_name("numpy_worker.py"))]
TORCH_WORKER = [sys.executable, "-m", "mhc_exp.runs.worker"]
KEY = "ca11ab1e" * 5
TIMES = ("seconds", "perf/step_seconds", "perf/tokens_per_second", "perf/peak_memory_bytes", "perf/mfu")


@functools.cache
def _composed(*overrides: str) -> Config:
    return compose(
        [
            *("backend=cpu", "backend.threads=1", "depth=2", "dataset=increment"),
            *("model.width=16", "model.heads=2", "model.seq_len=8", "training=smoke", "tracking=local"),
            *("launch=process", *overrides),
        ]
    )


def configured(root: Path, *overrides: str) -> Config:
    return dataclasses.replace(_composed(*overrides), runs_root=str(root))


@pytest.fixture
def config(tmp_path, monkeypatch) -> Config:
    """A run whose child processes train with numpy and that knows no W&B account."""
    monkeypatch.setattr(child, "_WORKER", NUMPY_WORKER)
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    return configured(tmp_path / "runs")


def go(config: Config, **options) -> Result:
    return launch(config, sweep=None, command=["mhc_exp"], **{"multirun": False, **options})


def opened(config: Config) -> RunDirectory:
    return RunDirectory.open(RunDirectory.location(config, None))


def made(config: Config) -> RunDirectory:
    return RunDirectory.create(config, sweep=None, command=["mhc_exp"])


def work(run: RunDirectory, worker: list[str] = NUMPY_WORKER, **variables: str) -> subprocess.CompletedProcess[str]:
    """The worker in a process, as torchrun or Slurm would start it."""
    environment = {**os.environ, **variables}
    return subprocess.run([*worker, str(run.path)], capture_output=True, text=True, env=environment, timeout=120)


def rows(run: RunDirectory) -> list[dict]:
    """Rows without what a clock decides."""
    return [{k: v for k, v in row.items() if k not in TIMES} for row in read_records(run.path).rows]


def weights(run: RunDirectory, step: int = 20) -> dict[str, bytes]:
    """The files of a checkpoint, byte for byte."""
    path = run.checkpoints.path(step)
    return {name: (path / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")}


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


def when_logged(run_path: Path, text: str, act) -> threading.Thread:
    """Do `act` from another thread as soon as train.log of the run contains `text`."""

    def watch() -> None:
        log = run_path / "train.log"
        while not (log.exists() and text in log.read_text()):
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


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
    on_text = dataclasses.replace(
        config, dataset=_composed("dataset=text", f"dataset.path={text}").dataset, name="book"
    )
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
    missing = _composed("dataset=text", "dataset.path=/nonexistent/book.txt").dataset
    result = go(dataclasses.replace(config, dataset=missing))
    assert (result.state, result.exit_code) == ("refused", 2)
    assert "/nonexistent/book.txt" in capfd.readouterr().out
    assert list(tmp_path.iterdir()) == []


# --- with the real trainer ---------------------------------------------------------------------------------------


@pytest.mark.fault(row=1)
def test_pytorch_killed_and_resumed_equals_pytorch_undisturbed(tmp_path):
    pytest.importorskip("torch")
    length = ("training.steps=60", "training.checkpoint_every=5")
    config = configured(tmp_path / "killed", "variant=mhc", "tracking=wandb", "tracking.wandb=offline", *length)
    killed, straight = made(config), made(dataclasses.replace(config, runs_root=str(tmp_path / "straight")))
    with subprocess.Popen([*TORCH_WORKER, str(killed.path)], stdout=subprocess.DEVNULL, stderr=-3) as process:
        when_logged(killed.path, "step 10/60", process.kill).join(100)
    assert killed.status()["state"] == "running"
    for run in (killed, straight):
        done = work(run, TORCH_WORKER, WANDB_API_KEY=KEY)
        assert done.returncode == 0, done.stderr
        assert not [path for path in run.path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert "resumes after step" in killed.log_path.read_text()
    assert weights(killed, 60) == weights(straight, 60)
    assert rows(killed) == rows(straight)


def small(root: Path, *overrides: str) -> Config:
    return configured(
        root, "launch=inline", "training.steps=20", "training.checkpoint_every=10", "name=run", *overrides
    )


def test_an_unfinished_run_goes_on_on_the_other_backend(tmp_path):
    """Torch to step 10, MLX from there: the same end as torch alone, and run.json says what happened."""
    whole = go(small(tmp_path / "whole", "variant=mhc"))
    config = small(tmp_path / "handed", "variant=mhc")
    run = opened(config) if go(config).exit_code == 0 else None
    assert run is not None
    shutil.rmtree(run.path / "checkpoints" / "step_00000020")
    run.update_status("interrupted", step=10)
    result = go(small(tmp_path / "handed", "variant=mhc", "backend=mlx"))
    assert result.state == "done"
    assert result.score == pytest.approx(whole.score, abs=1e-4)
    handed = opened(config).identity
    assert handed["config"]["backend"]["name"] == "mlx"
    assert handed["handed_over"][0]["from"]["name"] == "cpu"
    assert go(config).exit_code == 2, "finished on MLX, it is not a run of torch any more"


@pytest.mark.parametrize("budget", [["training.tokens=10"], ["training.flops=10"]])
def test_a_budget_below_one_step_is_refused_and_leaves_nothing(tmp_path, budget):
    config = configured(tmp_path / "runs", "launch=inline", "training.steps=null", *budget)
    result = go(config)
    assert (result.state, result.exit_code) == ("refused", 2)
    assert not (tmp_path / "runs").exists()


def test_a_run_does_not_train_on_its_own_log(tmp_path, monkeypatch):
    """dataset.path=. with runs/ below it: interrupted and resumed, the data is the same."""
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text("some words to learn from " * 40)
    monkeypatch.chdir(tmp_path)
    options = ["dataset=text", "dataset.path=.", "launch=inline", "name=run", "training.sample_tokens=0"]
    config = configured(tmp_path / "runs", *options)
    assert go(config).exit_code == 0
    run = opened(config)
    assert run.identity["data"]["documents"] == 3
    run.update_status("interrupted", step=10)
    assert go(config).state == "done"


def test_a_byte_pair_run_keeps_its_tokenizer(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("some words to learn from, and a few more\n" * 200)
    monkeypatch.chdir(tmp_path)
    options = ["dataset=text", "dataset.path=text.txt", "dataset.tokenizer=bpe", "dataset.vocab_size=270"]
    config = configured(tmp_path / "runs", *options, "launch=inline", "training.sample_tokens=0")
    assert go(config).exit_code == 0
    assert "merges" in json.loads((opened(config).path / "tokenizer.json").read_text())["model"]


def test_a_time_limit_gets_its_own_process_even_for_a_single_run(config):
    limited = dataclasses.replace(config, launch=dataclasses.replace(config.launch, mode="auto", timeout=0.01))
    assert go(limited).exit_code != 0


def test_closed_output_streams_do_not_fail_a_run(tmp_path):
    words = "experiment=smoke backend=cpu depth=1 model.width=16 dataset=increment training.steps=2 tracking=local"
    command = f"{sys.executable} -m mhc_exp {words} name=run >&- 2>&-"
    assert subprocess.run(command, shell=True, cwd=tmp_path, check=False).returncode == 0
    assert json.loads((tmp_path / "runs" / "single" / "run" / "status.json").read_text())["state"] == "done"
