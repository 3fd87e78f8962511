"""Rows reach metrics.jsonl whatever happens to the disk or to the other sinks."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from run_cases import FailingDisk, small_config

from mhc_exp.analysis.rows import read_records
from mhc_exp.runs.directory import RunDirectory
from mhc_exp.runs.tee import teed
from mhc_exp.sinks import Fanout
from mhc_exp.sinks.console import ConsoleSink, clock, is_live
from mhc_exp.sinks.jsonl import JsonlSink, encode
from mhc_exp.sinks.tensorboard import TensorboardSink


class Full(FailingDisk):
    """A disk that is full while `full` is set, and then takes the first `bytes_taken` bytes of a write."""

    def __init__(self, bytes_taken: int = 0) -> None:
        super().__init__(0)
        self.full, self.bytes_taken = False, bytes_taken

    def write(self, fd: int, data: memoryview) -> int:
        if not self.full:
            return os.write(fd, data)
        if self.bytes_taken:
            return os.write(fd, data[: self.bytes_taken])
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    return RunDirectory.create(small_config(str(tmp_path)), sweep=None, command=[])


def opened(run: RunDirectory, **options) -> JsonlSink:
    sink = JsonlSink(**options)
    sink.open(run, 100, 0)
    return sink


def steps(run: RunDirectory) -> list[int]:
    return [row["step"] for row in read_records(run.path).rows]


# --- metrics.jsonl -----------------------------------------------------------------------------------------------


def test_every_line_is_strict_json_even_if_numbers_are_not_finite(run):
    sink = opened(run)
    sink.log({"step": 1, "a": math.nan, "b": math.inf, "c": -math.inf, "d": np.float32(0.5), "e": np.int64(3)})
    sink.close("done")

    def refuse(token: str) -> None:
        raise AssertionError(f"bare {token}")

    (line,) = run.metrics_path.read_text().splitlines()
    row = json.loads(line, parse_constant=refuse)
    assert row == {"step": 1, "a": "NaN", "b": "Infinity", "c": "-Infinity", "d": 0.5, "e": 3}


def test_a_value_that_does_not_apply_is_absent():
    assert json.loads(encode({"step": 1, "val/loss": None})) == {"step": 1}  # type: ignore[dict-item]


def test_numbers_come_back_exactly():
    assert json.loads(encode({"x": 0.1 + 0.2, "y": 1e-300}))["x"] == 0.1 + 0.2


def test_a_row_is_in_the_file_when_log_returns(run):
    sink = opened(run)
    for step in range(3):
        sink.log({"step": step})
        assert steps(run) == list(range(step + 1))
    sink.close("done")


@pytest.mark.fault(row=8)
@pytest.mark.parametrize("kept", range(1, 30))
def test_a_torn_last_line_never_hides_the_row_after_it(run, kept):
    first, torn = encode({"step": 1, "train/loss": 2.5}), encode({"step": 2, "train/loss": 2.25})
    run.metrics_path.write_bytes(first + torn[:kept])
    sink = opened(run)
    sink.log({"step": 3})
    sink.close("done")
    assert steps(run) == ([1, 2, 3] if kept >= len(torn) - 1 else [1, 3])


def test_rows_written_again_after_a_resume_supersede_the_earlier_ones(run):
    for attempt in (1, 2):
        sink = opened(run)
        for step in (1, 2):
            sink.log({"step": step, "attempt": attempt})
        sink.close("done")
    assert [row["attempt"] for row in read_records(run.path).rows] == [2, 2]
    assert len(run.metrics_path.read_text().splitlines()) == 4


@pytest.mark.fault(row=5)
@pytest.mark.parametrize("taken", [0, 1, 5, 9])
def test_a_full_disk_delays_rows_and_loses_none(run, capsys, taken):
    disk = Full(taken)
    sink = opened(run, disk=disk)
    for step in range(10):
        disk.full = 3 <= step < 7
        sink.log({"step": step})
    assert sink.unwritten == 0
    sink.close("done")
    assert steps(run) == list(range(10))
    said = capsys.readouterr().err
    assert said.count("rows wait in memory") == 1
    assert said.count("no row is missing") == 1


def test_memory_is_bounded_while_the_disk_is_full_and_lost_rows_are_counted(run, capsys):
    disk = Full()
    sink = opened(run, disk=disk, ring=5)
    disk.full = True
    for step in range(12):
        sink.log({"step": step})
    assert sink.unwritten == 12
    disk.full = False
    sink.close("done")
    assert steps(run) == [7, 8, 9, 10, 11]
    assert sink.unwritten == 7
    assert "7 rows are missing" in capsys.readouterr().err


@pytest.mark.fault(row=4)
@pytest.mark.parametrize("n", range(1, 8))
def test_no_disk_error_at_any_call_reaches_the_loop(run, n):
    sink = opened(run, disk=FailingDisk(n, errno.EIO))
    for step in range(4):
        sink.log({"step": step})
        sink.flush()
    sink.close("done")
    assert (steps(run), sink.unwritten) == ([0, 1, 2, 3], 0)


def test_flush_waits_for_the_device(run):
    class Counting(FailingDisk):
        synced = 0

        def fsync(self, fd: int) -> None:
            os.fsync(fd)
            self.synced += 1

    disk = Counting(0)
    sink = opened(run, disk=disk)
    sink.log({"step": 1})
    before = disk.synced
    sink.flush()
    assert disk.synced == before + 1
    sink.close("done")


WRITER = """
import sys
from types import SimpleNamespace
from pathlib import Path
from mhc_exp.sinks.jsonl import JsonlSink
sink = JsonlSink()
sink.open(SimpleNamespace(path=Path(sys.argv[1])), 0, 0)
for step in range(10**9):
    sink.log({"step": step, "text": "x" * 300})
    print(step, flush=True)
"""


def test_a_killed_writer_has_lost_no_row_that_was_acknowledged(run):
    command = [sys.executable, "-c", WRITER, str(run.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(50):
            acknowledged = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        acknowledged = int([acknowledged, *writer.stdout.read().split()][-1])
    assert steps(run)[: acknowledged + 1] == list(range(acknowledged + 1))


def test_the_record_never_follows_a_link(run, tmp_path):
    (tmp_path / "precious").write_text("chapter 1")
    run.metrics_path.symlink_to(tmp_path / "precious")
    sink = opened(run)
    sink.log({"step": 1})
    sink.close("done")
    assert sink.unwritten == 1
    assert (tmp_path / "precious").read_text() == "chapter 1"


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
