"""Launch and worker with the real trainers: killed and resumed, handed to the other backend, with data of its own."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from worker_runs import KEY, TORCH_WORKER, configured, go, made, opened, rows, weights, when_logged, work

from mhc_exp.config.schema import Config


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


def test_closed_output_streams_do_not_fail_a_run(tmp_path):
    words = "experiment=smoke backend=cpu depth=1 model.width=16 dataset=increment training.steps=2 tracking=local"
    command = f"{sys.executable} -m mhc_exp {words} name=run >&- 2>&-"
    assert subprocess.run(command, shell=True, cwd=tmp_path, check=False).returncode == 0
    assert json.loads((tmp_path / "runs" / "single" / "run" / "status.json").read_text())["state"] == "done"
