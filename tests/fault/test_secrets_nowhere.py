"""Row 27: keys in the environment reach no file, log, report, notebook, record of a tracker, or title of a process."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import Path

import pytest
from standin import serving
from test_notebooks import NOTEBOOKS, executed

from mhc_exp.runs import redaction, tee

CANARIES = {
    name: f"canary{number}" + "0123456789abcdef0123456789abcdef0"
    for number, name in enumerate(
        [
            *("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "OPENAI_API_KEY", "MY_PASSWORD"),
            *("SSH_PASSWD", "SERVICE_CREDENTIALS", "DB_AUTH", "npm_config__auth"),
        ]
    )
}
RUN = [
    *("backend=cpu", "backend.threads=1", "depth=1", "variant=mhc", "dataset=increment", "training=smoke"),
    *("model.width=16", "model.heads=2", "model.seq_len=8", "training.steps=4", "tracking.tensorboard=true"),
]
NUMPY_WORKER = Path(__file__).parents[1] / "cli" / "numpy_worker.py"


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    home.mkdir(exist_ok=True)
    return {**kept, **CANARIES, "HOME": str(home), "WANDB_BASE_URL": "http://127.0.0.1:9", **more}


def hits(root: Path) -> list[str]:
    """Files below `root` that hold a canary, as it is or in a usual disguise."""
    found = []
    for file in (path for path in root.rglob("*") if path.is_file() and not path.is_symlink()):
        content = file.read_bytes()
        for name, value in CANARIES.items():
            forms = {value.encode(), base64.b64encode(value.encode()).rstrip(b"="), value.encode()[::-1]}
            forms |= {value.encode().hex().encode(), urllib.parse.quote(value).encode(), value.encode("utf-16-le")}
            if any(form in content for form in forms):
                found.append(f"{file.relative_to(root)}: {name}")
    return found


def titles(seen: set[str], stop: threading.Event) -> None:
    """Collect the command line of every process of this machine."""
    while not stop.is_set():
        for process in Path("/proc").glob("[0-9]*"):
            for name in ("cmdline", "comm"):
                try:
                    seen.add((process / name).read_bytes().decode(errors="replace"))
                except OSError:
                    continue
        time.sleep(0.1)


def command(*words: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-W", "ignore", "-m", "mhc_exp", *words]
    env = environment(cwd / "home", **more)
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, env=env, timeout=200, check=False)


def clean(said: subprocess.CompletedProcess[str]) -> bool:
    return not any(value in said.stdout + said.stderr for value in CANARIES.values())


@pytest.mark.fault(row=27)
def test_a_run_with_every_record_holds_no_key(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    seen: set[str] = set()
    stop = threading.Event()
    watcher = threading.Thread(target=titles, args=(seen, stop))
    watcher.start()
    try:
        done = command(*RUN, "tracking.wandb=offline", cwd=tmp_path)
    finally:
        stop.set()
        watcher.join()
    assert done.returncode == 0, done.stderr
    assert clean(done)
    (run,) = (tmp_path / "runs" / "single").iterdir()
    assert list(run.glob("wandb/offline-run-*/*.wandb"))
    assert list(run.glob("tensorboard/*"))
    assert hits(tmp_path) == []
    assert not [title for title in seen if any(value in title for value in CANARIES.values())]
    assert any("mhc_exp" in title for title in seen)


@pytest.mark.slow
@pytest.mark.fault(row=27)
def test_what_is_said_of_a_run_holds_no_key(tmp_path: Path) -> None:
    assert command(*RUN, "tracking=local", "tracking.tensorboard=false", cwd=tmp_path).returncode == 0
    (run,) = (tmp_path / "runs" / "single").iterdir()
    for words in (
        ["report", "runs"],
        ["show", str(run)],
        ["ls"],
        ["doctor", str(run)],
        ["doctor"],
        ["inspect", str(run)],
    ):
        said = command(*words, cwd=tmp_path)
        assert said.returncode == 0, said.stderr
        assert clean(said)
    assert hits(tmp_path) == []


@pytest.mark.slow
@pytest.mark.fault(row=27)
def test_what_is_sent_to_the_tracker_holds_no_key_but_the_one_that_opens_the_door(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    with serving() as server:
        done = command(
            *RUN, "tracking.wandb=online", "tracking.tensorboard=false", cwd=tmp_path, WANDB_BASE_URL=server.url
        )
        assert done.returncode == 0, done.stderr
        assert server.history
        assert not [name for name, value in CANARIES.items() if value.encode() in server.received]
    assert clean(done)
    assert hits(tmp_path) == []


@pytest.mark.fault(row=27)
@pytest.mark.parametrize("name", CANARIES)
def test_a_traceback_that_speaks_of_a_key_is_masked_everywhere(name: str, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv(name, CANARIES[name])
    assert redaction.redact(f"ValueError: key {CANARIES[name]}!") == "ValueError: key ***!"


@pytest.mark.fault(row=27)
def test_a_worker_that_dies_with_a_key_in_its_last_words_leaves_none(tmp_path: Path) -> None:
    words = [*RUN, "tracking=local", "launch=process"]
    script = (
        f"import sys; from mhc_exp.runs import child; child._WORKER = [sys.executable, {str(NUMPY_WORKER)!r}]; "
        f"from mhc_exp import cli, __main__ as door; sys.exit(cli.enter(door.main))"
    )
    env = environment(tmp_path / "home", FAULT="raise", FAULT_STEP="2")
    line = [sys.executable, "-W", "ignore", "-c", script, *words]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, env=env, timeout=200, check=False)
    assert done.returncode == 1, done.stderr
    assert "no luck today, key ***" in done.stdout + done.stderr
    assert clean(done)
    assert hits(tmp_path) == []


@pytest.mark.fault(row=27)
@pytest.mark.parametrize(
    "words",
    [
        *(["depth=${oc.env:HF_TOKEN}"], ["tracking.project=${oc.env:MY_PASSWORD}"], ["name=${oc.env:DB_AUTH}"]),
        [f"tracking.entity={CANARIES['HF_TOKEN']}"],
        [f"api_key={CANARIES['HF_TOKEN']}"],
    ],
)
def test_a_key_typed_or_interpolated_is_refused_and_not_repeated(words: list[str], tmp_path: Path) -> None:
    said = command("backend=cpu", *words, cwd=tmp_path)
    assert said.returncode == 2
    assert clean(said)
    assert hits(tmp_path) == []


@pytest.mark.slow
@pytest.mark.fault(row=27)
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_an_executed_notebook_holds_no_key(notebook: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)
    said = executed(notebook, NOTEBOOKS[0].parent / "fixture")
    assert not [name for name, value in CANARIES.items() if value in said]


@pytest.mark.fault(row=27, mutation=True)
def test_without_redaction_the_log_would_hold_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", CANARIES["HF_TOKEN"])
    monkeypatch.setattr(tee, "redact", lambda text: text)
    with tee.teed(tmp_path / "train.log"):
        print("login with", CANARIES["HF_TOKEN"])
    assert hits(tmp_path) == ["train.log: HF_TOKEN"]
    assert re.search("canary", (tmp_path / "train.log").read_text())
