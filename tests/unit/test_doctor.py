"""`mhc-exp doctor` sees what is wrong with an installation or a run, and repairs no more than it may."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from run_cases import make, small_config, state_of

from mhc_exp.doctor import command, installation, probe, storage, tracker
from mhc_exp.doctor import records as records_of
from mhc_exp.doctor.findings import Finding, size
from mhc_exp.runs.directory import RunDirectory
from mhc_exp.sinks.jsonl import encode

KEY = "d0c7042d0c7042d0c704"


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A finished run of 20 steps: a row every 5, checkpoints of 15 and 20."""
    run = make(small_config(str(tmp_path / "runs")))
    run.add_facts(total_steps=20)
    for step in (15, 20):
        run.checkpoints.save(step, state_of(step), {"seconds": 1.0})
    rows = [{"step": step, "train/loss": 1.0, "val/loss": 2.0} for step in range(0, 21, 5)]
    run.metrics_path.write_bytes(b"".join(map(encode, rows)))
    run.update_status("done", step=20, score=2.0)
    return run


def doctor(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    capsys.readouterr()
    code = command.main([str(word) for word in words])
    return code, capsys.readouterr().out


def lines(text: str, level: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(level)]


def everything(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


# --- a run -----------------------------------------------------------------------------------------------------------


def test_a_sound_run_has_no_problems_and_is_not_changed(run, capsys):
    before = everything(run.path)
    code, said = doctor(capsys, run.path)
    assert code == 0
    assert not lines(said, "PROBLEM") + lines(said, "note") + lines(said, "repaired")
    for words in ("steps 15, 20 have the hashes", "5 rows, steps 0 to 20 without a gap", "done at step 20"):
        assert words in said
    assert everything(run.path) == before


def test_a_run_is_found_by_its_name_and_a_directory_has_all_its_runs(run, capsys, monkeypatch):
    monkeypatch.setenv("MHC_RUNS", str(run.path.parents[1]))
    assert doctor(capsys, run.name)[0] == 0
    other = shutil.copytree(run.path, run.path.with_name("other"))
    code, said = doctor(capsys, run.path.parents[1])
    assert code == 1
    assert f"--- {run.path}" in said
    assert f"--- {other}" in said
    assert "rename the directory back" in said


def hash_of_another(run: RunDirectory) -> None:
    facts = json.loads((run.path / "run.json").read_text())
    facts["config"]["depth"] = 3
    (run.path / "run.json").write_text(json.dumps(facts))


def gap(run: RunDirectory) -> None:
    rows = run.metrics_path.read_bytes().splitlines(keepends=True)
    run.metrics_path.write_bytes(b"".join(rows[:2] + rows[3:]))


def flipped(run: RunDirectory) -> None:
    file = run.checkpoints.path(20) / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def linked(run: RunDirectory) -> None:
    run.checkpoints.root.rename(run.path / "elsewhere")
    run.checkpoints.root.symlink_to(run.path / "elsewhere")


def another_wiring(run: RunDirectory) -> None:
    run.checkpoints.facts = {**run.checkpoints.facts, "variant": {"name": "mhc"}}
    run.checkpoints.save(21, state_of(21), {})


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda run: (run.path / "run.json").write_text("{"), "run.json"),
        (hash_of_another, "changed by hand"),
        (lambda run: run.status_path.write_text("{"), "status.json"),
        (lambda run: run.update_status(score=1.0), "not the last val/loss"),
        (lambda run: run.metrics_path.unlink(), "rows are lost"),
        (gap, "1 steps should have a row and have none: 10"),
        (flipped, "does not have the sha256 of its manifest"),
        (lambda run: shutil.rmtree(run.checkpoints.path(20)), "last checkpoint (step 20) is not intact"),
        (linked, "symbolic link"),
        (another_wiring, "another wiring"),
        (
            lambda run: (run.update_status("failed"), shutil.rmtree(run.checkpoints.root)),
            "none is intact; the same command as before begins at step 0",
        ),
    ],
)
def test_what_is_wrong_with_a_run_is_a_problem_and_exit_code_1(run, capsys, damage, says):
    damage(run)
    code, said = doctor(capsys, run.path)
    assert code == 1
    assert any(says in line for line in lines(said, "PROBLEM")), said


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda run: (run.path / "config.yaml").write_text("depth: 7"), "config.yaml"),
        (lambda run: run.metrics_path.write_bytes(b"[]\n" + run.metrics_path.read_bytes()), "1 lines are no rows"),
        (lambda run: run.update_status("running"), "no process does; the same command resumes it"),
        (lambda run: run.checkpoints._quarantine(15, "x"), "1 damaged ones were set aside"),
    ],
)
def test_what_costs_nothing_is_a_note_and_exit_code_0(run, capsys, change, says):
    change(run)
    code, said = doctor(capsys, run.path)
    assert code == 0, said
    assert any(says in line for line in lines(said, "note")), said


def test_torn_ends_stale_locks_and_leftovers_are_repaired_and_nothing_else_is(run, capsys):
    before = everything(run.path)
    run.metrics_path.write_bytes(run.metrics_path.read_bytes() + b'{"step": 25, "train/lo')
    layers = run.path / "layers.jsonl"
    layers.write_bytes(b'{"step": 5, "sigma": [1.0]}')
    run.lock_path.write_text(json.dumps({"pid": 1, "host": "gone"}))
    for name in (".tmp-status.json-12", "checkpoints/.tmp-step_00000020-12", "checkpoints/.del-step_00000010-12"):
        (run.path / name).mkdir()
        (run.path / name / "x").write_bytes(b"half")
    code, said = doctor(capsys, run.path)
    assert (code, len(lines(said, "note"))) == (0, 6)
    code, said = doctor(capsys, run.path, "--repair")
    assert (code, len(lines(said, "repaired"))) == (0, 6)
    assert "cut 22 bytes of an unfinished row" in said
    assert "process 1 on gone" in said
    assert everything(run.path) == before | {"layers.jsonl": b'{"step": 5, "sigma": [1.0]}\n', ".lock": b""}
    assert not list(run.path.rglob(".tmp-*")) + list(run.path.rglob(".del-*"))
    assert not lines(doctor(capsys, run.path, "--repair")[1], "repaired")


def test_every_torn_end_is_cut_to_the_rows_before_it(run, capsys):
    whole = run.metrics_path.read_bytes()
    last = len(whole.splitlines(keepends=True)[-1])
    for cut in range(1, last):
        run.metrics_path.write_bytes(whole[:-cut])
        doctor(capsys, run.path, "--repair")
        kept = run.metrics_path.read_bytes()
        assert kept == (whole if cut == 1 else whole[:-last])


def test_a_run_that_trains_is_looked_at_and_left_alone(run, capsys):
    run.metrics_path.write_bytes(run.metrics_path.read_bytes() + b'{"step"')
    (run.path / ".tmp-status.json-12").write_bytes(b"")
    with run.lock():
        before = everything(run.path)
        code, said = doctor(capsys, run.path, "--repair")
        assert (code, lines(said, "repaired")) == (0, [])
        assert f"process {os.getpid()} on {socket.gethostname()} works on this run" in said
        assert everything(run.path) == before


def test_a_half_made_run_is_deleted_only_if_its_process_is_gone(run, capsys):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, alive = (run.path.with_name(f".new-x-{pid}") for pid in (ended.pid, os.getpid()))
    for place in (dead, alive):
        place.mkdir()
    doctor(capsys, run.path.parents[1])
    assert dead.exists()
    doctor(capsys, run.path.parents[1], "--repair")
    assert (dead.exists(), alive.exists()) == (False, True)


def test_nothing_is_repaired_through_a_link(run, capsys, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / ".tmp-thesis").write_text("chapter 1")
    shutil.rmtree(run.checkpoints.root)
    run.checkpoints.root.symlink_to(precious)
    (run.path / ".tmp-link").symlink_to(precious)
    run.metrics_path.rename(tmp_path / "rows")
    run.metrics_path.symlink_to(tmp_path / "rows")
    (tmp_path / "rows").write_bytes((tmp_path / "rows").read_bytes() + b"torn")
    doctor(capsys, run.path, "--repair")
    assert (precious / ".tmp-thesis").read_text() == "chapter 1"
    assert (tmp_path / "rows").read_bytes().endswith(b"torn")
    link = tmp_path / "link"
    link.symlink_to(run.path)
    assert doctor(capsys, link, "--repair")[0] == 1


def test_control_characters_of_a_damaged_file_do_not_reach_the_terminal():
    assert "\x1b" not in str(Finding("note", "x", "\x1b[2J"))


def test_gaps_are_counted_only_where_a_row_is_due(run):
    assert records_of.missing(run.config, 20, [0, 5, 10, 13, 15], 15) == []
    assert records_of.missing(run.config, 20, [0, 5], 15) == [10, 15]
    assert records_of.missing(run.config, 20, [], 0) == []


@pytest.mark.parametrize("words", [["nowhere"], ["--repair"]])
def test_what_cannot_be_examined_is_refused(words, tmp_path, monkeypatch, capsys):
    from mhc_exp import commands

    monkeypatch.chdir(tmp_path)
    assert commands.run("doctor", words) == 2
    assert "type mhc-exp" in capsys.readouterr().err


# --- an installation -------------------------------------------------------------------------------------------------


def levels(findings) -> list[str]:
    return [finding.level for finding in findings]


def test_a_library_with_a_slow_blas_is_a_problem_and_an_old_machine_is_not():
    assert levels(installation.slow({"numpy": 120.0, "torch": 160.0, "mlx": 4.0}, 2)) == ["PROBLEM"]
    assert levels(installation.slow({"numpy": 120.0, "torch": 160.0, "mlx": 90.0}, 2)) == ["ok"]
    assert levels(installation.slow({"numpy": 9.0, "torch": 8.0}, 2)) == ["note"]


def test_numpy_is_timed_in_a_process_of_its_own():
    found = probe.ask("numpy")
    assert found["gflops"]["CPU"] > 0.1
    assert found["warnings"] == []


def test_a_package_that_kills_its_process_is_a_problem_and_the_others_are_still_examined(monkeypatch):
    def ask(what: str) -> dict:
        if what == "torch":
            raise probe.Broken("its process ended with -11 and no word")
        return {"gflops": {"CPU": 100.0}, "warnings": []}

    monkeypatch.setattr(installation, "ask", ask)
    monkeypatch.setattr(installation.machine, "installed", lambda package: True)
    found = list(installation.backends())
    assert levels(found) == ["ok", "PROBLEM", "ok", "ok"]
    assert "-11" in found[1].text


def test_a_child_that_dies_is_told_with_its_last_word():
    with pytest.raises(probe.Broken, match="nonsense"):
        probe.ask("nonsense")


def test_without_any_backend_nothing_can_be_trained(monkeypatch):
    monkeypatch.setattr(installation.machine, "installed", lambda package: False)
    assert "PROBLEM" in levels(installation.backends())


def test_requirements_are_those_of_the_project_and_met_here(monkeypatch):
    wanted = dict(installation.requirements())
    assert wanted["numpy>=1.26"] is False
    assert wanted["torch>=2.9"] is True
    assert levels(installation.packages()) == ["ok"]
    monkeypatch.setattr(installation, "_installed", lambda name: {"numpy": "1.0"}.get(name))
    found = list(installation.packages())
    assert "numpy 1.0 does not suit" in next(f.text for f in found if "numpy" in f.text)
    assert levels(found).count("PROBLEM") == 5


def test_a_python_that_is_too_old_is_a_problem(monkeypatch):
    monkeypatch.setattr(installation.sys, "version_info", (3, 10, 2))
    assert installation.python().level == "PROBLEM"


def test_a_compiler_that_is_missing_costs_speed_alone(monkeypatch):
    monkeypatch.setattr(installation, "ask", lambda what: {"unavailable": "there is no C compiler"})
    assert levels(installation.kernels()) == ["note"]


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_the_compiler_is_named_as_one_types_it(monkeypatch):
    monkeypatch.setenv("CC", "cc -DTHIS='a b'")
    assert probe._kernels()["compiler"] == f"{shutil.which('cc')} '-DTHIS=a b'"


def test_the_disk_is_measured_and_nothing_stays(tmp_path):
    found = list(storage.examine(tmp_path / "not" / "yet"))
    assert levels(found) == ["ok", "ok", "ok"]
    assert "not made yet" in found[0].text
    assert list(tmp_path.iterdir()) == []


def test_a_runs_root_that_cannot_be_is_a_problem(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    assert levels(storage.examine(tmp_path / "file" / "runs")) == ["PROBLEM"]
    monkeypatch.setattr(storage, "LITTLE", 1e30)
    assert levels(storage.examine(tmp_path)) == ["ok", "PROBLEM", "ok"]


def test_the_key_of_the_tracker_is_noticed_and_never_shown(monkeypatch, capsys):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_API_KEY", KEY * 2)
    monkeypatch.setattr(tracker, "reachable", lambda server: Finding("ok", "wandb server", f"{server} {KEY * 2}"))
    found = list(tracker.examine(Path("nowhere")))
    assert found[0].text == "present (not shown)"
    print(*found)
    assert KEY not in capsys.readouterr().out


def test_a_server_that_accepts_and_says_nothing_costs_the_limit_and_no_more(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        found = tracker.reachable(f"http://127.0.0.1:{silent.getsockname()[1]}", 0.5)
        assert time.monotonic() - begun < 2
    assert found.level == "note"
    assert "no answer within 0.5 s" in found.text or "timed out" in found.text


def test_a_server_is_not_asked_where_the_environment_forbids_it(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(threading.Thread, "start", lambda self: pytest.fail("a connection"))
    assert "not asked" in tracker.reachable("http://127.0.0.1:9").text


def test_recordings_that_wait_are_counted_until_they_are_sent(tmp_path):
    for number in range(2):
        place = tmp_path / "single" / "run" / "wandb" / f"offline-run-{number}"
        place.mkdir(parents=True)
        (place / "run-x.wandb").write_bytes(b"")
    assert "2 recordings wait" in next(tracker.waiting(tmp_path)).text
    for place in tmp_path.glob("*/*/wandb/*"):
        (place / "run-x.wandb.synced").write_bytes(b"")
    assert levels(tracker.waiting(tmp_path)) == ["ok"]


def test_sizes_are_for_people():
    assert [size(count) for count in (5, 1500, 2.5e9, 7e13)] == ["5 B", "1.5 kB", "2.5 GB", "70.0 TB"]
