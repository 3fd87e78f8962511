"""Row 8: files cut off anywhere in what was written last."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from harness import ForkServer, configured, opened, rows, weights

from mhc_exp.analysis.rows import read_layers, read_records
from mhc_exp.config.schema import Config
from mhc_exp.sinks import jsonl
from mhc_exp.sinks.jsonl import JsonlSink, encode

WORDS = ("training.steps=6", "training.checkpoint_every=2", "training.log_every=1")
READERS = {"metrics.jsonl": lambda run: read_records(run).rows, "layers.jsonl": read_layers}


def seen_after_tears(directory: Path, file: str) -> list[list[int]]:
    """Steps that are read after a file was cut at every byte of its last row and another row was appended."""
    lines = [encode({"step": step, "mix/diagonal": [0.5, 1 / (step + 1)]}) for step in range(3)]
    found = []
    for kept in range(len(lines[-1]) + 1):
        (directory / file).write_bytes(b"".join(lines[:-1]) + lines[-1][:kept])
        sink = JsonlSink(file=file)
        sink.open(SimpleNamespace(path=directory), 9, 0)  # type: ignore[arg-type]
        sink.log({"step": 7})
        sink.close("done")
        found.append([row["step"] for row in READERS[file](directory)])
    return found


@pytest.mark.fault(row=8)
@pytest.mark.parametrize("file", READERS)
def test_a_tear_at_any_byte_costs_at_most_the_torn_row(
    tmp_path: Path, trials: Callable[[int], None], file: str
) -> None:
    found = seen_after_tears(tmp_path, file)
    trials(len(found))
    assert found[:-2] == [[0, 1, 7]] * (len(found) - 2)
    assert found[-2:] == [[0, 1, 2, 7]] * 2  # only the end of the line, or nothing, is missing


@pytest.mark.fault(row=8, mutation=True)
def test_writing_on_after_a_tear_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "_torn", lambda fd: False)
    assert [0, 1] in seen_after_tears(tmp_path, "metrics.jsonl")


@pytest.fixture(scope="module")
def died(numpy_runs: ForkServer, memory: Path) -> Config:
    """A run that was killed after its fourth step."""
    config = configured(memory / "died", *WORDS)
    numpy_runs.run(config, faults={"slow_steps": [0.02]}, from_word="saved 4", kill_after=0.0)
    return config


def go_on_after(server: ForkServer, died: Config, straight: Config, file: str, cuts: list[int]) -> list[str]:
    """What is wrong with copies of `died` whose `file` lost its last bytes, started again.

    The torn row itself is gone if a checkpoint says that its step is done.
    """
    wrong, last = [], rows(died)[-1]["step"]
    for cut in cuts:
        config = configured(Path(died.runs_root).with_name(f"{file}-{cut}"), *WORDS)
        shutil.copytree(died.runs_root, config.runs_root)
        torn = opened(config).path / file
        torn.write_bytes(torn.read_bytes()[:-cut])
        answer = server.run(config)
        gone = last if file == "metrics.jsonl" and cut > 1 and [last] == answer.numbers("resumed") else None
        expected = [row for row in rows(straight) if row["step"] != gone]
        if answer.code != 0 or rows(config) != expected or weights(config) != weights(straight):
            wrong.append(f"{cut} bytes less: {answer}")
    return wrong


@pytest.mark.fault(row=8)
@pytest.mark.parametrize("file", ["metrics.jsonl", "status.json"])
def test_a_run_with_a_torn_file_goes_on(
    numpy_runs: ForkServer, died: Config, memory: Path, trials: Callable[[int], None], file: str
) -> None:
    straight = configured(memory / f"straight-{file}", *WORDS)
    assert numpy_runs.run(straight).code == 0
    cuts = [1, 2, 9, 40, 100]
    trials(len(cuts))
    assert go_on_after(numpy_runs, died, straight, file, cuts) == []


@pytest.mark.fault(row=8)
def test_a_status_cut_at_any_byte_is_a_run_to_go_on_with(died: Config, trials: Callable[[int], None]) -> None:
    run = opened(died)
    whole = run.status_path.read_bytes()
    trials(len(whole))
    for kept in range(len(whole)):
        run.status_path.write_bytes(whole[:kept])
        assert run.status()["state"] == ("failed" if kept < len(whole) - 1 else json.loads(whole)["state"]), kept
    run.status_path.write_bytes(whole)
