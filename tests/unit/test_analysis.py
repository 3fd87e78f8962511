"""From the files of a run to its table, its pictures and its closing lines, whatever state the files are in."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mhc_exp.analysis.plots import plot_run
from mhc_exp.analysis.result import result_text
from mhc_exp.analysis.rows import COLUMNS, read_records, read_rows

BASICS = ["loss.png", "grad_norm.png", "nan_inf_events.png"]
GAINS = ["gain_proxy.png", "gains.png"]


def recorded(streams: bool, last: int = 40) -> list[dict[str, Any]]:
    """Rows as the loop writes them: training every 10 steps, held-out data and gains every 20."""
    rows: list[dict[str, Any]] = []
    for step in range(0, last + 1, 10):
        loss = 1.5 + 4.0 * math.exp(-step / 15)
        row: dict[str, Any] = {"step": step, "tokens": step * 256, "seconds": 0.5 * step, "train/nonfinite_total": 0}
        if step:
            row |= {"train/loss": loss, "train/grad_norm": 1.0 + 1 / step, "train/lr": 1e-3}
            row |= {"perf/tokens_per_second": 500.0 + step, "perf/step_seconds": 0.5, "perf/peak_memory_bytes": 2**28}
        if step % 20 == 0:
            row |= {"val/loss": loss + 0.1, "val/accuracy": 0.25, "val/bits_per_byte": (loss + 0.1) / math.log(2)}
            if streams:
                row |= {
                    f"gain/{way}_amax_{kind}": 1.0 + step / 100
                    for way in ("forward", "backward")
                    for kind in ("mean", "max")
                }
                row |= {"gain/proxy_log10_max_entry": -0.6, "gain/min_column_sum": 0.75, "gain/sigma_min_log10": -3.0}
                row |= {"gain/uniform_distance": 0.4, "streams/cosine": 0.9375, "streams/effective": 3.0}
        if streams and step:
            row["mix/grad_norm"] = 0.01
        rows.append(row)
    return rows


def stored(run: Path, rows: list[dict[str, Any]], **status: Any) -> Path:
    run.mkdir(parents=True, exist_ok=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "status.json").write_text(json.dumps({"state": "done", "step": 40, "score": 1.5} | status))
    facts = {
        "total_steps": 40,
        "chance": math.log(256),
        "floor": None,
        "device": "cpu (2 threads)",
        "command": ["python", "-m", "mhc_exp", "name=a b"],
    }
    facts |= {
        "body_parameters": 1234567,
        "connection_parameters": 8910,
        "yardsticks": {"bigram": 3.456, "xz": 1.987, "bz2": 2.012},
    }
    (run / "run.json").write_text(json.dumps(facts))
    return run


# --- rows --------------------------------------------------------------------------------------------------------


def test_every_table_has_the_documented_columns_as_numbers(tmp_path: Path) -> None:
    table = read_rows(stored(tmp_path, recorded(streams=False)))
    assert tuple(table.columns) == COLUMNS
    assert table["step"].dtype == "int64"
    assert {str(table[column].dtype) for column in COLUMNS[1:]} == {"float64"}
    assert table["val/loss"].notna().sum() == 3
    assert table["gain/min_column_sum"].isna().all()
    assert table.attrs == {"broken_lines": 0, "torn_tail": False}


def test_the_last_row_of_a_step_wins_and_steps_come_in_order(tmp_path: Path) -> None:
    rows = [{"step": step, "train/loss": float(step)} for step in (0, 10, 20, 30)]
    again = [{"step": step, "train/loss": -float(step)} for step in (20, 30)]
    table = read_rows(stored(tmp_path, rows + again))
    assert table["step"].tolist() == [0, 10, 20, 30]
    assert table["train/loss"].tolist() == [0.0, 10.0, -20.0, -30.0]


def test_a_tail_torn_at_any_byte_costs_at_most_that_row(tmp_path: Path) -> None:
    run = stored(tmp_path, recorded(streams=True))
    whole = (run / "metrics.jsonl").read_bytes()
    start = whole[:-1].rindex(b"\n") + 1
    for end in range(start, len(whole) + 1):
        (run / "metrics.jsonl").write_bytes(whole[:end])
        records = read_records(run)
        complete = end >= len(whole) - 1  # only the newline may be missing
        assert [row["step"] for row in records.rows] == [0, 10, 20, 30] + [40] * complete, end
        assert (records.broken, records.torn) == (0, start < end < len(whole) - 1), end
    (run / "metrics.jsonl").write_bytes(whole[: start + 9])
    assert read_rows(run).attrs == {"broken_lines": 0, "torn_tail": True}


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"\x00\x00\x00",
        b"[1, 2]",
        b'{"step": "5"}',
        b'{"step": true}',
        b'{"loss": 1}',
        b"\xff\xfe",
        b'{"step": -1}',
        b'{"step": 1e3}',
        b'{"step": 1{"step": 2}',
        b'{"step": 99999999999999999999}',
    ],
)
def test_a_line_that_is_no_row_is_left_out_and_counted(tmp_path: Path, junk: bytes) -> None:
    run = stored(tmp_path, [])
    (run / "metrics.jsonl").write_bytes(b'{"step": 0}\n' + junk + b'\n{"step": 10}\n')
    table = read_rows(run)
    assert table["step"].tolist() == [0, 10]
    assert table.attrs["broken_lines"] == 1


def test_bare_nan_and_text_in_a_number_column_count_as_not_measured(tmp_path: Path) -> None:
    run = stored(tmp_path, [])
    line = (
        b'{"step": 3, "train/loss": NaN, "train/grad_norm": -Infinity, "val/loss": "high", "nonfinite": "train/loss"}\n'
    )
    (run / "metrics.jsonl").write_bytes(line)
    table = read_rows(run)
    assert table[["train/loss", "train/grad_norm", "val/loss"]].isna().all(axis=None)
    assert table["nonfinite"].tolist() == ["train/loss"]
    assert read_records(run).last("train/grad_norm") is None


@pytest.mark.parametrize("content", [None, b""])
def test_a_run_without_rows_is_an_empty_table_with_all_columns(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "metrics.jsonl").write_bytes(content)
    table = read_rows(tmp_path)
    assert len(table) == 0
    assert tuple(table.columns) == COLUMNS


# --- plots -------------------------------------------------------------------------------------------------------


def assert_pictures(files: list[Path], names: list[str]) -> None:
    assert [file.name for file in files] == names
    for file in files:
        header = file.read_bytes()[:24]
        assert header[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack(">II", header[16:24])
        assert width > 800
        assert height > 500
        assert _ink(file) > 0.005
    directory = files[0].parent
    assert sorted(os.listdir(directory)) == sorted(names)  # nothing half written stays behind


def _ink(file: Path) -> float:
    """Share of the pixels that are not white."""
    from matplotlib.image import imread

    return float((imread(file)[..., :3].min(axis=-1) < 0.9).mean())


def test_a_wiring_with_streams_gets_gain_pictures_and_one_without_does_not(tmp_path: Path) -> None:
    assert_pictures(plot_run(stored(tmp_path / "mhc", recorded(streams=True))), BASICS + GAINS)
    assert_pictures(plot_run(stored(tmp_path / "baseline", recorded(streams=False), floor=1.4)), BASICS)


def test_a_diverged_run_is_drawn_up_to_its_end(tmp_path: Path) -> None:
    event = {"step": 33, "tokens": 33 * 256, "seconds": 17.0, "train/nonfinite_total": 1, "nonfinite": "train/loss=nan"}
    rows = [*recorded(streams=True, last=30), event]
    assert_pictures(plot_run(stored(tmp_path, rows, state="diverged", step=33)), BASICS + GAINS)


def test_a_run_that_has_only_begun_is_drawn(tmp_path: Path) -> None:
    assert_pictures(plot_run(stored(tmp_path / "empty", [], state="running", step=0)), BASICS)
    begun = stored(tmp_path / "begun", recorded(streams=True, last=0), state="running", step=0)
    assert_pictures(plot_run(begun), BASICS + GAINS)
    (tmp_path / "bare").mkdir()
    assert_pictures(plot_run(tmp_path / "bare"), BASICS)


@pytest.mark.parametrize("value", [0.0, -1.0, 1e300])
def test_any_constant_can_be_drawn(tmp_path: Path, value: float) -> None:
    rows = [{key: value if "/" in key else number for key, number in row.items()} for row in recorded(streams=True)]
    assert_pictures(plot_run(stored(tmp_path, rows, floor=value, chance=value)), BASICS + GAINS)


def test_drawing_leaves_no_trace_in_the_process(tmp_path: Path) -> None:
    run = stored(tmp_path, recorded(streams=True))
    program = (
        "import sys\n"
        "import mhc_exp.analysis.plots, mhc_exp.analysis.result, mhc_exp.analysis.rows\n"
        "assert not {'matplotlib', 'pandas'} & set(sys.modules)\n"
        "mhc_exp.analysis.result.result_text(sys.argv[1])\n"
        "mhc_exp.analysis.plots.plot_run(sys.argv[1])\n"
        "assert 'pandas' not in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program, str(run)], check=True, timeout=60)


# --- closing lines -----------------------------------------------------------------------------------------------


def test_the_result_names_every_number_a_reader_asks_for(tmp_path: Path) -> None:
    run = stored(tmp_path / "mhc-d2", recorded(streams=True))
    plot_run(run)
    (run / "sample.txt").write_text("def f(x):\n\treturn\x1b[31m x\n")
    text = result_text(run)
    loss = recorded(streams=True)[-1]["val/loss"]
    for expected in (
        "mhc-d2: done, 40 steps",
        f"{loss:.4f} nats",
        "uniform guess 5.5452",
        "25.0%",
        f"{loss / math.log(2):.3f}; the whole held-out text: bigram 3.456, xz 1.987, bz2 2.012",
        "10,240 tokens in 20.0 s, 525 tokens/s",
        "peak 256 MiB",
        "1,234,567 in the body + 8,910 in the connections",
        "at most 1 x forward, 1 x backward; weakest stream passes on 0.75; cosine between streams 0.9375",
        "at most 1.4 x forward",
        "non-finite",
        "loss.png",
        "python -m mhc_exp 'name=a b'",
        "return\N{REPLACEMENT CHARACTER}[31m x",
    ):
        assert expected in text, expected
    assert "\x1b" not in text


def test_the_result_of_a_task_with_a_floor_gives_the_excess(tmp_path: Path) -> None:
    rows = recorded(streams=False)
    rows[-1]["val/excess"] = 0.0123
    text = result_text(stored(tmp_path, rows, floor=0.7295))
    assert "0.0123 nats above the known floor 0.7295" in text
    assert "gains" not in text


def test_the_result_of_a_diverged_run_says_where_and_what_is_left(tmp_path: Path) -> None:
    event = {"step": 33, "tokens": 33 * 256, "seconds": 17.0, "train/nonfinite_total": 1, "nonfinite": "train/loss=nan"}
    run = stored(tmp_path, [*recorded(streams=False, last=30), event], state="diverged", step=33)
    for step in (20, 30):
        (run / "checkpoints" / f"step_{step:08d}").mkdir(parents=True)
    text = result_text(run)
    assert "diverged at step 33 of 40" in text
    assert "checkpoints/step_00000030" in text
    assert "1 step, first seen at step 33" in text
    assert "measured at step 20" in text


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (
            {"state": "interrupted", "step": 7},
            "interrupted and saved at step 7 of 40; the same command goes on from there",
        ),
        ({"state": "failed", "step": 7, "reason": "out of memory"}, "failed at step 7 of 40: out of memory"),
        ({"state": "running", "step": 7}, "running, step 7 of 40"),
    ],
)
def test_every_state_has_its_sentence(tmp_path: Path, status: dict[str, Any], expected: str) -> None:
    assert expected in result_text(stored(tmp_path, recorded(streams=False, last=0), **status))


@pytest.mark.parametrize("damage", [None, b"", b"{", b"[]", b"\xff"])
def test_damaged_files_never_stop_the_closing_lines(tmp_path: Path, damage: bytes | None) -> None:
    if damage is not None:
        for name in ("run.json", "status.json", "metrics.jsonl", "sample.txt"):
            (tmp_path / name).write_bytes(damage)
    assert tmp_path.name in result_text(tmp_path)
