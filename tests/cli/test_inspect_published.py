"""`mhc-exp inspect CHECKPOINT`: connections read out of safetensors files, without their model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from door import Door
from safetensors.torch import save_file

STREAMS, WIDTH, LAYERS = 4, 8, 3
ROWS = STREAMS * (STREAMS + 2)
CONFIG = {"model_type": "deepseek_v4", "hc_mult": STREAMS, "hc_eps": 1e-6, "hc_sinkhorn_iters": 20}
SWAP = np.roll(np.eye(STREAMS), 1, axis=1)
"""H_res of the last connection: stream i takes from stream i + 1."""
THEIRS, PUBLISHED = "model.layers.{}.{}_hc.{}", "layers.{}.hc_{}_{}"


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Door:
    monkeypatch.chdir(tmp_path)
    return Door(tmp_path, monkeypatch, capfd)


def connections(names: str, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Tensors of six connections whose H_res is the identity, but for the last, and of something else."""
    found = {"model.layers.0.self_attn.q_proj.weight": torch.zeros(2, 2)}
    for layer in range(LAYERS):
        for part in ("attn", "ffn"):
            last = layer == LAYERS - 1 and part == "ffn"
            comb = (SWAP if last else np.eye(STREAMS)).T  # applied transposed
            bias = np.concatenate([np.zeros(2 * STREAMS), 30 * comb.ravel()])
            found[names.format(layer, part, "base")] = torch.from_numpy(bias).to(dtype)
            found[names.format(layer, part, "fn")] = torch.ones(ROWS, STREAMS * WIDTH, dtype=dtype)
            found[names.format(layer, part, "scale")] = torch.tensor([0.5, 0.25, layer + 1.0], dtype=dtype)
    return found


def checkpoint(directory: Path, tensors: dict[str, torch.Tensor], **config: object) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(CONFIG | config))
    save_file(tensors, directory / "model.safetensors")
    return directory


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("names", [THEIRS, PUBLISHED])
def test_biases_are_shown_for_either_way_of_naming(door, tmp_path, names, dtype):
    checkpoint(tmp_path / "model", connections(names, dtype))
    said = door("inspect", "model", "--out", "out")
    assert said.code == 0
    lines = {line.split()[0]: line.split() for line in said.out.splitlines() if line[:1].isdigit()}
    assert "6 connections, 4 streams" in said.out
    assert lines["5"][1:3] == ["mlp", "2"]
    mixing = said.out.split("streams and learning")[0]
    by_connection = {line.split()[0]: line.split()[3:] for line in mixing.splitlines() if line[:1].isdigit()}
    assert by_connection["0"][0] == "1.000"
    assert float(by_connection["5"][0]) < 1e-5, "a shift has an empty diagonal"
    assert by_connection["5"][1] == "1.414", "and is ||SWAP - I|| / 2 away from the identity"
    assert lines["5"][-3:] == ["0.500", "0.250", "3.000"], "alphas of read, write and mix"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "learning.png", "mixing.png", "mixing_over_depth.png",
    ]  # fmt: skip


def test_only_files_with_connections_are_opened(door, tmp_path):
    tensors = connections(THEIRS)
    directory = checkpoint(tmp_path / "model", {})
    (directory / "model.safetensors").unlink()
    half = dict(list(tensors.items())[:8])
    save_file(half, directory / "one.safetensors")
    save_file({name: value for name, value in tensors.items() if name not in half}, directory / "two.safetensors")
    places = {name: "one.safetensors" if name in half else "two.safetensors" for name in tensors}
    places["model.layers.0.mlp.weight"] = "missing.safetensors"
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    said = door("inspect", "model")
    assert said.code == 0
    assert "6 connections" in said.out
    assert (tmp_path / "inspect-model" / "mixing.png").exists()


def without(part: str) -> dict[str, torch.Tensor]:
    return {name: value for name, value in connections(THEIRS).items() if not name.endswith(part)}


@pytest.mark.parametrize(
    ("tensors", "config", "words", "answer"),
    [
        (without("1.ffn_hc.scale"), {}, [], "the mlp connection of layer 1 has no scale"),
        ({"a": torch.zeros(1)}, {}, [], "has connections such as layers.0.attn_hc.fn"),
        (connections(THEIRS), {"hc_mult": 3}, [], "does not fit 3 streams"),
        (connections(THEIRS), {"model_type": "hy_v4"}, [], "type --text FILE to run it"),
        (connections(THEIRS), {"model_type": "llama"}, [], "is of type 'llama'"),
        (connections(THEIRS), {}, ["--checkpoint", "3"], "--checkpoint is for runs of mhc_exp"),
        (connections(THEIRS), {}, ["--text", "nothing.txt"], "nothing.txt cannot be read"),
        (connections(THEIRS), {}, ["--length", "0"], "type 1 or more"),
    ],
)
def test_what_cannot_be_read_is_said(door, tmp_path, tensors, config, words, answer):
    checkpoint(tmp_path / "model", tensors, **config)
    before = door.left_behind()
    said = door("inspect", "model", *words)
    assert said.code != 0
    assert answer in said.err
    assert door.left_behind() == before


@pytest.mark.parametrize("damage", ["torn", "absent", "config", "outside", "index"])
def test_a_damaged_checkpoint_is_refused(door, tmp_path, damage):
    directory = checkpoint(tmp_path / "model", connections(THEIRS))
    file, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if damage == "torn":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "absent":
        file.unlink()
    elif damage == "config":
        (directory / "config.json").write_text("[1]")
    elif damage == "outside":
        index.write_text(json.dumps({"weight_map": {THEIRS.format(0, "attn", "fn"): "../other.safetensors"}}))
    else:
        index.write_text(json.dumps({"weight_map": [1]}))
    said = door("inspect", "model")
    assert said.code != 0
    expected = {
        "config": "is no configuration of transformers",
        "outside": "outside its directory",
        "index": "no index",
    }
    assert expected.get(damage, "model.safetensors cannot be read") in said.err
    assert "Traceback" not in said.err


def test_a_text_is_not_for_a_run(door, tmp_path):
    (tmp_path / "text.txt").write_text("text")
    said = door("inspect", "anything", "--text", "text.txt")
    assert said.code != 0
    assert "has no config.json" in said.err


def test_to_run_a_model_needs_transformers(door, tmp_path, monkeypatch):
    checkpoint(tmp_path / "model", connections(THEIRS))
    (tmp_path / "text.txt").write_text("text")
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    said = door("inspect", "model", "--text", "text.txt", "--bytes")
    assert said.code != 0
    assert "type: pip install transformers" in said.err
