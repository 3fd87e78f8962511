"""Readers of files that others may have written or damaged, each as a function of bytes that must not raise.

A target knows what its reader promises: which refusals are allowed, and what holds for what was read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mhc_exp.analysis.facts import read_facts
from mhc_exp.analysis.rows import columns_of, read_records
from mhc_exp.config import schema
from mhc_exp.config.build import ConfigError, as_mapping, build
from mhc_exp.config.compose import compose
from mhc_exp.config.overrides import override_problems
from mhc_exp.data.tokens import HEADER, make, open_shard
from mhc_exp.doctor import run as doctor
from mhc_exp.runs import checkpoints
from mhc_exp.runs.checkpoints import MANIFEST, MODEL, OPTIMIZER, CheckpointStore, Damaged
from mhc_exp.runs.directory import RunDirectory, RunRefused
from mhc_exp.training.trainer import State

PLACE = Path(tempfile.mkdtemp(prefix="mhc_exp-fuzz-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
"""Where inputs become files; in memory where there is some."""
_STATE = State({"w": np.arange(6, dtype=np.float32).reshape(2, 3)}, {"exp_avg.w": np.ones((2, 3), np.float32)})
_PROGRESS = {"seconds": 1.5, "nonfinite_total": 0, "nonfinite_stretch": 0, "score": None}
FILES = checkpoints._serialise(1, _STATE, _PROGRESS, {"config_hash": "abc"})


class Finding(Exception):
    """A promise that does not hold."""


def checkpoint(data: bytes) -> None:
    """The first byte says which of the three files the rest is; the other two are sound."""
    name = (MODEL, OPTIMIZER, MANIFEST)[data[0] % 3] if data else MODEL
    found = _read_checkpoint({**FILES, name: data[1:]})
    if found is not None and data[1:] != FILES[name]:
        raise Finding(f"{name} was changed, and nobody noticed")


def sealed(data: bytes) -> None:
    """What anybody can do who knows the format: files of any content under a manifest with the right hashes."""
    kind, content = (data[0] % 3 if data else 0), data[1:]
    files = dict(FILES)
    body: Any = json.loads(FILES[MANIFEST])
    del body["seal"]
    if kind < 2:
        name = (MODEL, OPTIMIZER)[kind]
        files[name] = content
        body["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    else:
        try:
            body = json.loads(content)
            files[MANIFEST] = checkpoints._seal(body)
        except (ValueError, TypeError, RecursionError):
            return
    if kind < 2:
        files[MANIFEST] = checkpoints._seal(body)
    found = _read_checkpoint(files)
    if found is not None and not (isinstance(found.progress, dict) and isinstance(found.facts, dict)):
        raise Finding("a checkpoint without progress and facts")


def _read_checkpoint(files: dict[str, bytes]) -> checkpoints.Checkpoint | None:
    place = PLACE / "c" / "step_00000001"
    place.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (place / name).write_bytes(content)
    try:
        return CheckpointStore(PLACE / "c", 2).read(1)
    except (Damaged, OSError):
        return None


def tokens(data: bytes) -> None:
    """A .bin file."""
    file = PLACE / "train.bin"
    file.write_bytes(data)
    try:
        shard = open_shard(str(file), "dataset.train")
    except ConfigError:
        return
    beyond = HEADER if shard.layout.startswith("llm.c") else 0
    if shard.tokens.nbytes + beyond != len(data):
        raise Finding(f"{shard.tokens.nbytes} bytes of tokens in a file of {len(data)}")
    dataset = schema.Tokens("tokens", str(file), str(_held_out()), 300, None)
    with contextlib.suppress(ConfigError):
        task = make(_with(dataset))
        batch = task.batch(0, 2)
        if batch.inputs.min() < 0 or batch.targets.max() >= 300:
            raise Finding("a token outside the vocabulary")


def _held_out() -> Path:
    file = PLACE / "held_out.bin"
    if not file.exists():
        file.write_bytes(np.arange(299, dtype="<u2").tobytes())
    return file


def metrics(data: bytes) -> None:
    """metrics.jsonl: any bytes give rows in order, each with a step."""
    place = PLACE / "m"
    place.mkdir(exist_ok=True)
    (place / "metrics.jsonl").write_bytes(data)
    records = read_records(place)
    steps = [row["step"] for row in records.rows]
    if steps != sorted(set(steps)):
        raise Finding("steps out of order")
    columns_of(records.rows)
    whole = data[: data.rfind(b"\n") + 1]
    (place / "metrics.jsonl").write_bytes(whole)
    if not {row["step"] for row in read_records(place).rows} <= {*steps}:
        raise Finding("a torn end hides a row before it")


def run(data: bytes) -> None:
    """run.json or status.json of a run directory: opened, read as facts, and examined by the doctor."""
    place = _run_directory()
    name = ("run.json", "status.json", "config.yaml", ".lock")[data[0] % 4] if data else "run.json"
    before = (place / name).read_bytes() if (place / name).exists() else b""
    (place / name).write_bytes(data[1:])
    try:
        read_facts(place)
        with contextlib.suppress(RunRefused):
            RunDirectory.open(place).status()
        for finding in doctor.examine(place):
            str(finding)
    finally:
        (place / name).write_bytes(before)


def config(data: bytes) -> None:
    """A mapping as it may stand in run.json."""
    try:
        mapping = json.loads(data)
    except (ValueError, RecursionError):
        return
    with contextlib.suppress(ConfigError):
        built = build(mapping)
        if build(as_mapping(built)) != built:
            raise Finding("not the same configuration the second time")


def words(data: bytes) -> None:
    """A command line, one word per line."""
    for problem in override_problems(data.decode("utf-8", "replace").split("\n")):
        str(problem)


_CACHE: dict[str, Any] = {}


def _with(dataset: schema.Dataset) -> schema.Config:
    import dataclasses

    if "config" not in _CACHE:
        _CACHE["config"] = compose(["backend=cpu", "dataset=increment", "model.seq_len=8", f"runs_root={PLACE}/runs"])
    return dataclasses.replace(_CACHE["config"], dataset=dataset)


def _run_directory() -> Path:
    if "run" not in _CACHE:
        made = RunDirectory.create(_with(schema.Increment("increment", 16)), sweep=None, command=["fuzz"])
        made.update_status("running", step=3)
        made.metrics_path.write_bytes(b'{"step": 0}\n')
        _CACHE["run"] = made.path
    return _CACHE["run"]


def _corpus() -> dict[str, list[bytes]]:
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 1, 299
    rows = b'{"step": 0, "val/loss": 1.5}\n{"step": 5, "train/loss": NaN}\n{"step": 10, "nonfinite": "x"}\n'
    run_path = _run_directory()
    body = json.loads(FILES[MANIFEST])
    del body["seal"]
    of_run = [bytes([n]) + (run_path / name).read_bytes() for n, name in enumerate(("run.json", "status.json"))]
    return {
        "checkpoint": [bytes([n]) + FILES[name] for n, name in enumerate((MODEL, OPTIMIZER, MANIFEST))],
        "sealed": [bytes([0]) + FILES[MODEL], bytes([1]) + FILES[OPTIMIZER], bytes([2]) + json.dumps(body).encode()],
        "tokens": [header.tobytes() + np.arange(299, dtype="<u2").tobytes(), np.arange(300, dtype="<u2").tobytes()],
        "metrics": [rows, rows[:-9], b'{"step": 1e400}\n[1]\n{"step": true}\n'],
        "run": [*of_run, b"\x02depth: 3\n", b'\x03{"pid": 1, "host": "x"}'],
        "config": [json.dumps(as_mapping(_with(schema.Increment("increment", 16)))).encode()],
        "words": [b"variant=mhc\ndepth=3", b"model.width=64\ntracking.tags=[a,b]", b"-m\nseed=range(3)", b"dept=48"],
    }


TARGETS: dict[str, Callable[[bytes], None]] = {
    "checkpoint": checkpoint,
    "sealed": sealed,
    "tokens": tokens,
    "metrics": metrics,
    "run": run,
    "config": config,
    "words": words,
}
DICTIONARY = [
    *(b"null", b"true", b"NaN", b"Infinity", b"-1", b"1e999", b"9" * 400, b"{}", b"[]", b'""', b"\x00", b"\xff\xfe"),
    *(b'"step"', b'"files"', b'"format"', b'"data_offsets"', b'"dtype"', b'"F32"', b'"shape"', b"__metadata__"),
    *(b"\xff" * 8, b"\x00" * 8, b"../", b"${oc.env:HOME}", b"${", b"_target_", b"???", b"range(1,2,0)", b"'", b"\\"),
    *(b"\n", b"[" * 3000, b'{"a":' * 2000, "\N{GREEK SMALL LETTER ALPHA}".encode(), b"\xed\xa0\x80", b"1" * 5000),
]


def corpus() -> dict[str, list[bytes]]:
    """Sound inputs of every target."""
    if "corpus" not in _CACHE:
        _CACHE["corpus"] = _corpus()
    return _CACHE["corpus"]
