"""Sinks that fail, and what is left of a run then."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from run_cases import small_config
from sink_cases import steps

from mhc_exp.runs.directory import RunDirectory
from mhc_exp.runs.tee import teed
from mhc_exp.sinks import Fanout
from mhc_exp.sinks.console import ConsoleSink, clock, is_live
from mhc_exp.sinks.jsonl import JsonlSink
from mhc_exp.sinks.tensorboard import TensorboardSink


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    return RunDirectory.create(small_config(str(tmp_path)), sweep=None, command=[])


# --- several sinks -----------------------------------------------------------------------------------------------


class Memory:
    """Keeps what it is told; raises in the calls named by `broken`."""

    essential = False

    def __init__(self, name: str = "memory", broken: tuple[str, ...] = ()) -> None:
        self.name, self.broken = name, broken
        self.rows: list[dict] = []
        self.calls: list[str] = []

    def _call(self, what: str) -> None:
        self.calls.append(what)
        if what in self.broken:
            raise ConnectionResetError("gone")

    def open(self, run, total_steps: int, resumed_at: int) -> None:
        self._call("open")

    def log(self, row) -> None:
        self._call("log")
        self.rows.append(row)
        row["mine"] = self.name

    def flush(self) -> None:
        self._call("flush")

    def close(self, state: str) -> None:
        self._call("close")


@pytest.mark.parametrize("broken", ["open", "log", "flush", "close"])
def test_a_sink_that_raises_is_reported_once_and_the_others_go_on(run, capsys, broken):
    bad, good = Memory("bad", (broken,)), Memory("good")
    sinks = Fanout([JsonlSink(), bad, good])
    sinks.open(run, 10, 0)
    for step in range(5):
        sinks.log({"step": step})
        sinks.flush()
    sinks.close("done")
    assert capsys.readouterr().err.count("bad: ConnectionResetError: gone") == 1
    assert bad.calls.count(broken) <= 2
    assert bad.calls[-1] == "close"
    assert [row["step"] for row in good.rows] == steps(run) == list(range(5))


def test_a_sink_cannot_change_what_the_others_see(run):
    sinks = Fanout([Memory("first"), second := Memory("second"), JsonlSink()])
    sinks.open(run, 1, 0)
    sinks.log({"step": 0})
    sinks.close("done")
    assert second.rows == [{"step": 0, "mine": "second"}]
    assert json.loads(run.metrics_path.read_text()) == {"step": 0}


def test_a_row_that_cannot_be_recorded_is_a_defect_and_is_seen(run):
    sinks = Fanout([JsonlSink()])
    sinks.open(run, 1, 0)
    with pytest.raises(TypeError):
        sinks.log({"step": 1, "bad": object()})  # type: ignore[dict-item]
    sinks.close("failed")


def test_what_is_measured_per_connection_has_a_file_of_its_own(run):
    seen = Memory("other")
    sinks = Fanout([JsonlSink(), seen], layers=JsonlSink(file="layers.jsonl"))
    sinks.open(run, 1, 0)
    sinks.log({"step": 0, "train/loss": 1.5})
    sinks.log_layers({"step": 0, "mix/diagonal": [0.5, None]})
    sinks.close("done")
    assert json.loads((run.path / "layers.jsonl").read_text()) == {"step": 0, "mix/diagonal": [0.5, None]}
    assert steps(run) == [0]
    assert seen.rows == [{"step": 0, "train/loss": 1.5, "mine": "other"}]


# --- console -----------------------------------------------------------------------------------------------------

ROW = {"step": 5, "train/loss": 1.5, "val/loss": 1.25, "perf/tokens_per_second": 12345.6}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def watched(run: RunDirectory, monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> str:
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    with teed(run.log_path):
        sink = ConsoleSink()
        sink.open(run, 10, 0)
        sink.log(ROW)  # type: ignore[arg-type]
        print("WARNING: from somewhere else", file=sys.stderr)
        sink.log({**ROW, "step": 10})  # type: ignore[dict-item]
        sink.close("done")
        print("the end")
    return stream.getvalue()


def test_rows_are_plain_lines_where_there_is_no_terminal(run, monkeypatch):
    shown = watched(run, monkeypatch, io.StringIO())
    assert "\x1b" not in shown
    assert "step  5/10  ETA 0:00  loss 1.5000  val 1.2500  12,346 tok/s\n" in shown
    assert run.log_path.read_text() == shown


def test_a_terminal_has_a_live_bar_and_the_log_has_plain_lines(run, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = watched(run, monkeypatch, Terminal())
    assert "\x1b[" in shown
    assert "10/10" in shown
    assert shown.index("WARNING: from somewhere else\n") < shown.index("the end")
    log = run.log_path.read_text()
    assert "\x1b" not in log
    assert [line for line in log.splitlines() if line.startswith("step")][1].startswith("step 10/10  loss 1.5000")
    assert "WARNING: from somewhere else\n" in log


def test_no_color_is_respected(run, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in watched(run, monkeypatch, Terminal())


def test_a_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert not is_live(Terminal())


def test_durations_are_written_for_people():
    assert (clock(5.4), clock(65), clock(3665)) == ("0:05", "1:05", "1:01:05")


# --- tensorboard -------------------------------------------------------------------------------------------------


def test_tensorboard_files_hold_the_numbers_and_forget_superseded_steps(run):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for resumed_at, first in ((0, 1.0), (2, 9.0)):
        sink = TensorboardSink()
        sink.open(run, 10, resumed_at)
        for step in range(resumed_at + 1, resumed_at + 4):
            sink.log({"step": step, "train/loss": first, "note": "text"})
        sink.close("done")
    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    assert events.Tags()["scalars"] == ["train/loss"]
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [
        *((1, 1.0), (2, 1.0)),
        *((3, 9.0), (4, 9.0), (5, 9.0)),
    ]


def test_tensorboard_needs_neither_torch_nor_tensorflow(tmp_path):
    pytest.importorskip("tensorboard")
    code = (
        "import sys; from types import SimpleNamespace; from pathlib import Path\n"
        "from mhc_exp.sinks.tensorboard import TensorboardSink\n"
        f"sink = TensorboardSink(); sink.open(SimpleNamespace(path=Path({str(tmp_path)!r})), 1, 0)\n"
        "sink.log({'step': 1, 'a': 1.0}); sink.close('done')\n"
        "print([name for name in ('torch', 'tensorflow') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_missing_tensorboard_is_one_line_with_what_to_type(run, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    sinks = Fanout([TensorboardSink(), JsonlSink()])
    sinks.open(run, 1, 0)
    sinks.log({"step": 0})
    sinks.close("done")
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "pip install 'mhc-exp[tensorboard]'" in said
    assert steps(run) == [0]


def test_the_sinks_room_imports_no_tracker_and_no_display(tmp_path: Path):
    code = (
        "import sys, mhc_exp.sinks.console, mhc_exp.sinks.jsonl, mhc_exp.sinks.wandb, mhc_exp.sinks.tensorboard\n"
        "print([n for n in ('wandb', 'rich', 'tensorboard', 'torch', 'hydra', 'omegaconf') if n in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
