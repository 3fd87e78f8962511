"""Row 26: checkpoints, records and datasets made to run code, to fill the memory, or to block for ever."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from run_cases import go, make, small_config, state_of
from test_data_tokens import config_of, dataset

from mhc_exp.analysis.rows import read_records
from mhc_exp.config import schema
from mhc_exp.config.build import ConfigError
from mhc_exp.data import make_task
from mhc_exp.runs import checkpoints
from mhc_exp.runs.checkpoints import MANIFEST, MODEL, CheckpointStore, Damaged
from mhc_exp.runs.directory import RunDirectory, RunRefused

SECONDS, BYTES = 1.0, 100_000_000
"""A refusal takes less of both."""


class Bomb:
    """Unpickled, it makes the file `mark`."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


def cheaply(refuse: Callable[[], object], *kinds: type[Exception]) -> str:
    """The text of a refusal that takes less than `SECONDS` of CPU and `BYTES`."""
    tracemalloc.start()
    begun = time.process_time()
    try:
        with pytest.raises(kinds) as refused:
            refuse()
        assert time.process_time() - begun < SECONDS
        assert tracemalloc.get_traced_memory()[1] < BYTES
    finally:
        tracemalloc.stop()
    return str(refused.value)


def tensors(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


MODELS: dict[str, Callable[[Path], bytes]] = {
    "a pickle": lambda mark: pickle.dumps(Bomb(mark)),
    "a header of 2^60 bytes": lambda _: struct.pack("<Q", 2**60) + b"{}",
    "a header that is a pickle": lambda mark: tensors(pickle.dumps(Bomb(mark))),
    "overlapping tensors": lambda _: tensors({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12)),
    "a hole": lambda _: tensors({"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}, bytes(12)),
    "a tensor beyond the end": lambda _: tensors({"a": entry(0, 2**40, [2**38])}, bytes(4)),
    "a shape of 2^62 elements": lambda _: tensors({"a": entry(0, 4, [2**31, 2**31])}, bytes(4)),
    "a negative offset": lambda _: tensors({"a": entry(-4, 4, [2])}, bytes(8)),
    "a negative shape": lambda _: tensors({"a": entry(0, 4, [-1])}, bytes(4)),
    "an unknown type": lambda _: tensors({"a": entry(0, 4, [1], "PYTHON")}, bytes(4)),
    "a type that numpy lacks": lambda _: tensors({"a": entry(0, 4, [4], "F8_E4M3")}, bytes(4)),
    "deep JSON": lambda _: tensors(b"[" * 100_000),
    "no header": lambda _: b"\x02",
    "nothing": lambda _: b"",
}
FACTS: dict[str, Callable[[dict], object]] = {
    "a list": lambda body: [body],
    "no files": lambda body: {**body, "files": {}},
    "files that are a list": lambda body: {**body, "files": [1, 2]},
    "a size that is text": lambda body: {
        **body,
        "files": {name: {"bytes": "1", "sha256": ""} for name in body["files"]},
    },
    "no progress": lambda body: {name: value for name, value in body.items() if name != "progress"},
    "progress that is a list": lambda body: {**body, "progress": []},
    "no format": lambda body: {name: value for name, value in body.items() if name != "format"},
    "another step": lambda body: {**body, "step": 7},
    "names that lead elsewhere": lambda body: {**body, "files": {"../../x": {"bytes": 0, "sha256": ""}}},
}


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """Checkpoints of steps 1 and 2."""
    made = CheckpointStore(tmp_path / "c", 2, report=lambda message: None)
    for step in (1, 2):
        made.save(step, state_of(step), {"seconds": 1.0})
    return made


def forge(
    store: CheckpointStore, model: bytes | None = None, facts: Callable[[dict], object] = lambda body: body
) -> None:
    """Give step 2 another model or manifest, with all hashes right."""
    place = store.path(2)
    body = json.loads((place / MANIFEST).read_bytes())
    del body["seal"]
    if model is not None:
        (place / MODEL).write_bytes(model)
        body["files"][MODEL] = {"bytes": len(model), "sha256": hashlib.sha256(model).hexdigest()}
    changed = facts(body)
    sealed = checkpoints._seal(changed) if isinstance(changed, dict) else json.dumps(changed).encode()
    (place / MANIFEST).write_bytes(sealed)


@pytest.mark.fault(row=26)
@pytest.mark.parametrize("kind", MODELS)
def test_a_forged_model_with_right_hashes_is_refused_and_the_checkpoint_before_it_is_used(
    kind: str, store: CheckpointStore, tmp_path: Path
) -> None:
    forge(store, MODELS[kind](tmp_path / "mark"))
    cheaply(lambda: store.read(2), Damaged)
    found = store.newest()
    assert found is not None
    assert found.step == 1
    assert not (tmp_path / "mark").exists()


@pytest.mark.fault(row=26)
@pytest.mark.parametrize("kind", FACTS)
def test_a_forged_manifest_with_a_right_seal_is_refused(kind: str, store: CheckpointStore) -> None:
    forge(store, facts=FACTS[kind])
    cheaply(lambda: store.read(2), Damaged)
    found = store.newest()
    assert found is not None
    assert found.step == 1


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def huge(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(2**40)  # no byte of it is on the disk


@pytest.mark.fault(row=26)
@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", [MANIFEST, MODEL])
@pytest.mark.parametrize("make_it", [pipe, endless, huge, Path.mkdir])
def test_what_is_no_plain_file_of_the_right_size_is_not_read(name: str, make_it, store: CheckpointStore) -> None:
    (store.path(2) / name).unlink()
    make_it(store.path(2) / name)
    cheaply(lambda: store.read(2), Damaged)
    found = store.newest()
    assert found is not None
    assert found.step == 1


@pytest.mark.fault(row=26, mutation=True)
def test_a_reader_that_opens_whatever_is_there_would_be_noticed(store: CheckpointStore, monkeypatch) -> None:
    monkeypatch.setattr(checkpoints, "_plain_bytes", lambda path, most: path.read_bytes())
    monkeypatch.setattr(checkpoints, "_complete", lambda body: True)
    (store.path(2) / MODEL).rename(store.root / "elsewhere")
    (store.path(2) / MODEL).symlink_to(store.root / "elsewhere")
    assert store.read(2).step == 2, "a link was followed"
    forge(store, facts=FACTS["no progress"])
    with pytest.raises(KeyError):
        cheaply(lambda: store.read(2), Damaged)


@pytest.mark.fault(row=26)
@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b"\x80\x04.", b"null", b'{"config": ' + b'{"a":' * 50_000, b"\xff"]
)
def test_a_hostile_run_json_is_refused_and_named(content: bytes, tmp_path: Path) -> None:
    config = small_config(str(tmp_path / "runs"))
    run = make(config)
    (run.path / "run.json").write_bytes(content)
    assert "run.json" in cheaply(lambda: RunDirectory.open(run.path), RunRefused)
    assert go(config).exit_code == 2
    run.status_path.write_bytes(content)
    assert run.status()["state"] == "failed"


@pytest.mark.fault(row=26)
def test_rows_of_any_kind_are_read_or_left_out(tmp_path: Path) -> None:
    lines = [
        b"[" * 50_000,
        b"9" * 10_000,
        b'{"step": ' + b"9" * 500 + b"}",
        b'{"step": -1}',
        b"\xff\x00",
        b'{"step": 1}',
    ]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    assert [row["step"] for row in read_records(tmp_path).rows] == [1]
    assert read_records(tmp_path).broken == 5


# --- datasets --------------------------------------------------------------------------------------------------------


def sound(path: Path) -> Path:
    np.arange(300, dtype="<u2").tofile(path)
    return path


@pytest.mark.fault(row=26)
@pytest.mark.timeout(20)
@pytest.mark.parametrize("make_it", [pipe, endless, huge])
def test_a_token_file_that_is_none_is_refused_at_once(make_it, tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    make_it(path)
    config = config_of(dataset(path, sound(tmp_path / "held_out.bin")))
    if make_it is huge:
        (tmp_path / "train.bin").write_bytes(struct.pack("<3i", 20240520, 1, -1) + bytes(1012))
    assert "dataset.train" in cheaply(lambda: make_task(config), ConfigError)


@pytest.mark.fault(row=26)
@pytest.mark.timeout(20)
def test_a_pickle_or_a_pipe_in_place_of_text_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "x.bin").write_bytes(pickle.dumps(Bomb(mark)) * 2)
    for content in (dataset(tmp_path / "x.bin", sound(tmp_path / "held_out.bin")),):
        cheaply(lambda content=content: make_task(config_of(content)), ConfigError)
    pipe(tmp_path / "lines.jsonl")
    hub = schema.Hub("hub", str(tmp_path / "lines.jsonl"), None, "train", None, "text", "bytes", 300, 10_000, 5.0)
    assert "dataset.id" in cheaply(lambda: make_task(config_of(hub)), ConfigError)
    pipe(tmp_path / "text")
    text = schema.Text("text", str(tmp_path / "text"), "bytes", 300, 5.0)
    assert "dataset.path" in cheaply(lambda: make_task(config_of(text)), ConfigError)
    assert not mark.exists()


@pytest.mark.fault(row=26, mutation=True)
def test_the_bomb_goes_off_where_somebody_unpickles_it(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()
