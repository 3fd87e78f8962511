"""`mhc-exp inspect` and `mhc-exp intervene` as a person types them, on a run trained for a few steps."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from door import Door

from mhc_exp.config.compose import compose
from mhc_exp.inspection import opened
from mhc_exp.runs.directory import RunDirectory
from mhc_exp.runs.launch import launch

PICTURES = ["learning.png", "mixing.png", "mixing_over_depth.png", "streams.png", "streams_over_depth.png"]
TEXT = "One stream was enough for a long time, and then there were four of them. " * 400


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with text.txt and the run `mhc`, both to be copied."""
    root = tmp_path_factory.mktemp("trained")
    (root / "text.txt").write_text(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        train("variant=mhc", "name=mine")
    return root


def train(*words: str) -> None:
    """Four steps of a small model on text.txt of the current directory."""
    what = ["dataset=text", "dataset.path=text.txt", "training=smoke", "tracking=local"]
    sizes = ["depth=2", "model.width=16", "model.heads=2", "model.seq_len=16", "backend=cpu", "backend.threads=1"]
    steps = ["training.steps=4", "training.checkpoint_every=2", "training.eval_batches=3"]
    result = launch(compose([*what, *sizes, *steps, *words]), sweep=None, command=["mhc-exp"], multirun=False)
    assert result.state == "done"


@pytest.fixture
def door(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Door:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MHC_RUNS", raising=False)
    return Door(tmp_path, monkeypatch, capfd)


def refusal(door: Door, *words: str) -> str:
    said = door(*words)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(f"mhc-exp {words[0]}: ")
    return said.err


def directory() -> Path:
    return next(Path("runs/single").iterdir())


def test_inspect_prints_two_tables_and_draws_five_pictures(door: Door) -> None:
    before = door.left_behind()
    said = door("inspect", "mine", "--out", "pictures")
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert lines[0].startswith(f"{directory().name}, step 4, on cpu")
    assert lines[0].endswith("4 connections, 4 streams")
    assert [line.split()[:3] for line in lines if re.match(r"\d ", line)] == 2 * [
        ["0", "attention", "0"], ["1", "mlp", "0"], ["2", "attention", "1"], ["3", "mlp", "1"],
    ]  # fmt: skip
    assert sorted(path.name for path in Path("pictures").iterdir()) == PICTURES
    assert all((Path("pictures") / name).stat().st_size > 5000 for name in PICTURES)
    assert [path for path in door.left_behind() if not path.startswith("pictures")] == before
    assert door("inspect", "mine", "--checkpoint", "2").out.splitlines()[0].startswith(f"{directory().name}, step 2")
    assert sorted(path.name for path in (directory() / "plots/inspect").iterdir()) == PICTURES


def test_intervene_begins_with_the_loss_of_the_run_and_ends_where_nothing_changes(door: Door) -> None:
    changes = ["--identity", "--uniform", "1:3", "--ablate", "2@1:", "--permute", "1,0,2,3@3", "--scan", "2"]
    said = door("intervene", "mine", *changes)
    assert (said.code, said.err) == (0, "")
    head, names, *rows, note = said.out.splitlines()
    assert "4 connections, 4 streams" in head
    assert names.split() == ["change", "connections", "loss", "change", "of", "it", "+-", "SE", "bits/byte"]
    assert [re.split("  +", row)[:2] for row in rows[1:]] == [
        ["identity", "all"], ["uniform", "1:3"], ["ablate 2", "1:"], ["permute 1,0,2,3", "3:4"],
        ["identity", "0:2"], ["identity", "2:4"],
    ]  # fmt: skip
    status = json.loads((directory() / "status.json").read_text())
    assert rows[0].split()[:2] == ["nothing", f"{status['score']:.4f}"]
    change = {" ".join(re.split("  +", row)[:2]): float(re.split("  +", row)[3]) for row in rows[1:]}
    assert abs(change["permute 1,0,2,3 3:4"]) < 2e-5, "the sum over streams does not know their order"
    assert abs(change["ablate 2 1:"]) > 2e-5
    assert note.startswith("nats per token on 3 held-out batches, ")


def test_a_wiring_that_repeats_blocks_is_opened_loop_by_loop(door: Door, capfd: pytest.CaptureFixture[str]) -> None:
    train("variant=hyperloop", "name=loops", "variant.loops=3")
    capfd.readouterr()
    lines = door("inspect", "loops", "--out", "pictures").out.splitlines()
    assert lines[0].endswith("3 connections, 4 streams")
    assert [line.split()[1:3] for line in lines if re.match(r"\d ", line)] == 2 * [["loop", str(k)] for k in range(3)]
    assert sorted(path.name for path in Path("pictures").iterdir()) == PICTURES
    said = door("intervene", "loops", "--identity", "2", "--ablate", "1")
    assert "3 connections, 4 streams" in said.out
    assert abs(float(re.split("  +", said.out.splitlines()[3])[3])) > 1e-4, "H_res starts at 1/2"
    assert "no connections 3:4; this model has 3" in door("intervene", "loops", "--identity", "3").err


def test_the_other_backend_opens_the_run_and_finds_the_same(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, shown = door("intervene", "mine", "--ablate", "0").out, door("inspect", "mine").out.splitlines()
    monkeypatch.setattr(opened, "installed", lambda package: package == "mlx")
    other = door("intervene", "mine", "--ablate", "0").out
    assert "on mlx" in other.splitlines()[0]
    one, two = ([float(number) for number in re.findall(r"\d\.\d+", said.partition("\n")[2])] for said in (mine, other))
    assert one == pytest.approx(two, abs=2e-5)
    again = door("inspect", "mine").out.splitlines()
    assert "on mlx" in again[0]
    columns = 5  # the sixth is Sinkhorn's error, which is rounding here
    assert [line.split()[:columns] for line in again[1:]] == [line.split()[:columns] for line in shown[1:]]


def test_a_run_that_has_not_ended_is_opened_where_it_is(door: Door) -> None:
    run = RunDirectory.open(directory())
    run.update_status("diverged", step=3)
    said = door("intervene", "mine", "--identity")
    assert said.out.splitlines()[0].startswith(f"{run.name}, step 4 (the run is diverged), on")


def test_a_damaged_checkpoint_is_passed_over_and_left_where_it_is(door: Door) -> None:
    weights = directory() / "checkpoints/step_00000004/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    said = door("intervene", "mine", "--identity")
    assert said.code == 0
    assert "the checkpoint of step 4 cannot be used: model.safetensors does not have the sha256" in said.err
    assert said.out.splitlines()[0].startswith(f"{directory().name}, step 2, on")
    assert weights.exists()
    assert "no checkpoint of" in door("intervene", "mine", "--identity", "--checkpoint", "4").err


def test_what_cannot_be_opened_says_why(door: Door) -> None:
    assert "no run 'yours'" in refusal(door, "inspect", "yours")
    assert "has no checkpoint of step 3; type one of: 2, 4" in refusal(door, "inspect", "mine", "--checkpoint", "3")
    Path("text.txt").write_text(TEXT.upper())
    assert "was trained on other data; restore it\n" in refusal(door, "inspect", "mine")
    Path("text.txt").unlink()
    said = refusal(door, "intervene", "mine", "--identity")
    assert "cannot be read any more" in said
    assert "dataset.path" in said
    shutil.rmtree(directory() / "checkpoints")
    assert "has no checkpoint (state done)" in refusal(door, "inspect", "mine")
    config = compose(["variant=baseline", "backend=cpu", "name=plain"])
    RunDirectory.create(config, sweep=None, command=["mhc-exp"])
    said = refusal(door, "intervene", "plain", "--identity")
    assert "baseline, which has one stream" in said
    assert "such as hc or mhc" in said
    RunDirectory.create(compose(["variant=xhc", "backend=cpu", "name=sparse"]), sweep=None, command=["mhc-exp"])
    assert "xhc, which has connections of another kind" in refusal(door, "inspect", "sparse")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "nothing to change; type at least one of"),
        (["--identity", "2:9"], "no connections 2:9; this model has 4"),
        (["--identity", "x"], "'x' names no connections; type A:B"),
        (["--ablate", "4"], "no stream 4; this model has 4: type 0 to 3"),
        (["--ablate", "a@1"], "'a@1' names no stream"),
        (["--permute", "0,1"], "0,1 is no permutation"),
        (["--permute", "0-1"], "'0-1' is no order of streams"),
        (["--scan", "0"], "'0' is no number to count with"),
    ],
    ids=str,
)
def test_a_change_that_cannot_be_made_says_what_can(door: Door, words: list[str], says: str) -> None:
    said = door("intervene", "mine", *words)
    assert (said.code, said.out) == (2, "")
    assert says in said.err
