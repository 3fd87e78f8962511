"""Where runs are found and how each is read: run directories, offline W&B files, a W&B project. No pandas here.

Whatever the source, a run becomes a `Recorded`: its facts under the names of run.json and status.json, and its rows.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mhc_exp.analysis.facts import checked_facts, decode, read_facts
from mhc_exp.analysis.rows import Records, by_step, checked, read_records

Source = str | os.PathLike[str]

REMOTE = "wandb://"
WATCH = "watch.json"
"""The file that tells a directory of watched connections from one of runs."""
STATES = {"finished": "done", "running": "running", "crashed": "killed", "killed": "interrupted", "failed": "failed"}
"""W&B's word for how a run ended -> ours, where the run itself left none."""
EXITS = {0: "done", 3: "diverged", 130: "interrupted"}
"""Exit code that our sink gives W&B -> how the run ended."""


class NothingThere(Exception):
    """A source that does not exist or cannot be read; the text says what to type instead."""


class Recorded(NamedTuple):
    """One run as it was found."""

    facts: dict[str, Any]
    """`name`, `state`, `step`, `score`, `config` and whatever else its identity says."""
    records: Records
    directory: str
    """Where to look: a path, or the address of a W&B run."""


def read(source: Source | Sequence[Source]) -> Iterator[Recorded]:
    """The runs of `source`, each once: a runs root, sweep, run, glob, `.wandb` file, wandb://entity/project, or a list.

    An existing directory without runs gives none. Raises NothingThere.
    """
    found: dict[str, Path] = {}
    projects: list[str] = []
    for one in [source] if isinstance(source, str | os.PathLike) else source:
        one = os.fspath(one)
        if one.startswith(REMOTE):
            projects.append(one)
        else:
            for inner in itertools.chain.from_iterable(map(_below, _places(one))):
                found.setdefault(os.path.realpath(inner), inner)
    recordings = [place for place in found.values() if place.suffix == ".wandb"]
    directories = (read_run(place) for place in found.values() if place.suffix != ".wandb")
    seen: set[str] = set()
    for run in itertools.chain(directories, _offline(recordings), *map(_of_project, projects)):
        if run.directory not in seen:
            seen.add(run.directory)
            yield run


def places(root: Path) -> list[Path]:
    """Directories of the runs below `root`."""
    return [place for place in _below(root) if place.suffix != ".wandb"]


def _places(source: str) -> list[Path]:
    """The path `source`, or those that match it."""
    if not source:
        raise NothingThere("a source is empty text; is a variable of the shell not set? type . for this directory")
    path = Path(source).expanduser()
    if path.exists():
        return [path]
    if not any(sign in source for sign in "*?["):
        raise NothingThere(f"no such file or directory: {source}; type mhc-exp ls DIRECTORY to see the runs in one")
    found = sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))
    if not found:
        raise NothingThere(f"nothing matches {source!r}; type mhc-exp ls DIRECTORY to see the runs in one")
    return found


def is_watch(path: Path) -> bool:
    """Whether mhc_exp.torch.Watch writes into `path`."""
    return (path / WATCH).is_file()


def watches(root: Path) -> list[Path]:
    """Directories of watched connections below `root`, at most two levels down."""
    return sorted(file.parent for depth in ("*", "*/*") for file in root.glob(f"{depth}/{WATCH}"))


def is_run(path: Path) -> bool:
    """Whether `path` is a run directory, complete or not."""
    return any((path / name).is_file() for name in ("run.json", "metrics.jsonl", "status.json"))


def _below(path: Path) -> Iterator[Path]:
    """Run directories and W&B recordings at or below `path`; a run's own copy for W&B is not a second run. What a Watch
    wrote is no run.
    """
    if not path.is_dir():
        if path.suffix == ".wandb":
            yield path
        return
    if is_watch(path):
        return
    if is_run(path):
        yield path
        return
    try:
        children = sorted(child for child in path.iterdir() if not child.name.startswith("."))
    except PermissionError:
        return
    for child in children:
        if not (child.is_dir() and child.is_symlink()):
            yield from _below(child)


# --- run directories -------------------------------------------------------------------------------------------------


def read_run(path: Path) -> Recorded:
    """The run in directory `path`, whatever a crash left of its files."""
    facts, records = read_facts(path), read_records(path)
    facts = {**facts, "name": facts.get("name") or path.resolve().name, **_state(path, facts, records)}
    return Recorded(facts, records, os.path.relpath(path))


def _state(path: Path, facts: dict[str, Any], records: Records) -> dict[str, Any]:
    """State and step as status.json tells them; without it, what the other files allow to say."""
    last = records.rows[-1]["step"] if records.rows else 0
    if not isinstance(state := facts.get("state"), str):
        if not (path / "status.json").exists():
            unstarted = not records.rows and "config" in facts
            return {"state": "created", "step": 0} if unstarted else {"state": "unknown", "step": last}
        return {"state": "unknown", "step": last, "reason": "status.json is damaged"}
    step = facts.get("step")
    if state == "running":
        last = max(last, step or 0)  # either file may be the one of a while ago
        if facts.get("host") == socket.gethostname() and not _alive(path):
            return {
                "state": "killed",
                "step": last,
                "reason": facts.get("reason") or "its process ended without a word",
            }
        return {"step": last}
    return {"step": last if step is None else step}


def _alive(path: Path) -> bool:
    from mhc_exp.runs.lock import holder

    try:
        return holder(path / ".lock") is not None
    except OSError:
        return True  # a lock that cannot be looked at says nothing


# --- W&B -------------------------------------------------------------------------------------------------------------


def _offline(files: Iterable[Path]) -> Iterator[Recorded]:
    """One run per W&B id, of all its recordings (a resumed run has several) in the order they were begun."""
    parts: dict[str, list[_Recording]] = {}
    for file in files:
        recording = _inspect(file)
        parts.setdefault(recording.id or str(file), []).append(recording)
    for recordings in parts.values():
        recordings.sort(key=lambda recording: recording.started)
        yield _assembled(recordings)


@dataclass
class _Recording:
    """One .wandb file."""

    file: Path
    id: str = ""
    name: str = ""
    group: str | None = None
    started: str = ""
    exit_code: int | None = None
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)


def _inspect(file: Path) -> _Recording:
    """What `wandb leet inspect`, W&B's own reader, says of `file`; also of one whose writer was killed."""
    recording = _Recording(file)
    for line in _inspected(file):
        try:
            record = decode(line)
        except ValueError:
            continue
        content = record.get(record.get("type")) or {}
        match record.get("type"):
            case "run":
                recording.id = content.get("run_id", "")
                recording.name = content.get("display_name") or recording.id
                recording.group = content.get("run_group") or content.get("group")
                recording.started = content.get("start_time", "")
                recording.config |= (content.get("config") or {}).get("update") or {}
            case "config":
                recording.config |= content.get("update") or {}
            case "summary":
                recording.summary |= content.get("update") or {}
            case "history":
                recording.rows.append(content.get("item") or {})
            case "exit":
                recording.exit_code = content.get("exit_code", 0)
    return recording


def _inspected(file: Path) -> list[str]:
    program = Path(sys.executable).with_name("wandb")
    program = str(program) if program.is_file() else shutil.which("wandb")
    if program is None:
        raise NothingThere(f"reading {file} needs wandb; type: pip install 'mhc-exp[wandb]'")
    command = [program, "leet", "inspect", "--json", str(file.absolute())]
    environment = {**os.environ, "WANDB_ERROR_REPORTING": "false"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)
    if done.returncode and not done.stdout:
        said = done.stderr.strip().splitlines()
        raise NothingThere(f"{file} cannot be read as a W&B recording: {said[-1] if said else 'no reason given'}")
    return done.stdout.splitlines()


def _assembled(recordings: list[_Recording]) -> Recorded:
    last = recordings[-1]
    state = "running" if last.exit_code is None else EXITS.get(last.exit_code, "failed")
    rows = [row for recording in recordings for row in recording.rows]
    return _of_wandb(last.name, last.group, last.config, last.summary, rows, state, os.path.relpath(last.file))


def _of_project(source: str) -> Iterator[Recorded]:
    """Every run of wandb://entity/project, or the one of wandb://entity/project/run."""
    parts = source.removeprefix(REMOTE).strip("/").split("/")
    if not 2 <= len(parts) <= 3 or not all(parts):
        raise NothingThere(f"{source} is no W&B project; type wandb://ENTITY/PROJECT or wandb://ENTITY/PROJECT/RUN")
    try:
        import wandb
        from wandb.errors import CommError, Error
    except ImportError as error:
        raise NothingThere(f"reading {source} needs wandb; type: pip install 'mhc-exp[wandb]'") from error
    try:
        api = wandb.Api()
        path = "/".join(parts)
        runs = [api.run(path)] if len(parts) == 3 else api.runs(path, order="+created_at", lazy=False)
        for run in runs:
            rows = list(run.scan_history(use_cache=False))
            state = STATES.get(run.state, run.state)
            config, summary = dict(run.config), dict(run.summary)
            yield _of_wandb(str(run.name), run.group, config, summary, rows, state, run.url)
    except (CommError, Error, ValueError) as error:
        raise NothingThere(f"{source} cannot be read: {str(error) or type(error).__name__}") from error


def _of_wandb(
    name: str,
    group: str | None,
    config: dict[str, Any],
    summary: dict[str, Any],
    rows: list[dict[str, Any]],
    state: str,
    where: str,
) -> Recorded:
    """A run as W&B keeps it: `config` is ours with the identity under `run`, rows carry W&B's own `_` columns."""
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    facts = config.pop("run", None)
    facts = dict(facts) if isinstance(facts, dict) else {}
    config = facts.pop("config", config)  # a run of W&B's sweep agent, which keeps `variant` for itself
    records = Records(by_step(map(own_columns, rows)), 0, False)
    said = summary.get("status")
    facts |= {"name": name, "config": config, "state": said if isinstance(said, str) else state}
    facts |= {"step": records.rows[-1]["step"] if records.rows else 0, "score": records.last("val/loss")}
    facts.setdefault("sweep", group or None)
    return Recorded(checked_facts(facts), records, where)


def own_columns(row: dict[str, Any]) -> dict[str, Any] | None:
    """A row of W&B's history as it was logged; None if it is none of ours."""
    own = {key: value for key, value in row.items() if not key.startswith("_")}
    if isinstance(step := own.get("step"), float) and step.is_integer():  # JSON has one kind of number
        own["step"] = int(step)
    return checked(own)
