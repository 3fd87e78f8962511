"""Rows reach metrics.jsonl whatever happens to the disk or to the other sinks."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from run_cases import FailingDisk, small_config
from sink_cases import steps

from mhc_exp.analysis.rows import read_records
from mhc_exp.runs.directory import RunDirectory
from mhc_exp.sinks.jsonl import JsonlSink, encode


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
