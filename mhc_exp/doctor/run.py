"""One run directory: what it says of itself, its rows, its checkpoints, its lock; and repairs that lose nothing.

Nothing is changed without the lock of the run, so a run that trains is only looked at.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mhc_exp.analysis.rows import read_records
from mhc_exp.config.naming import config_hash
from mhc_exp.doctor import litter
from mhc_exp.doctor.checkpoints import examine as examine_checkpoints
from mhc_exp.doctor.findings import Finding, note, ok, problem, repaired
from mhc_exp.doctor.records import examine as examine_records
from mhc_exp.runs import lock
from mhc_exp.runs.directory import FINISHED, RunDirectory, RunRefused
from mhc_exp.runs.lock import Locked


def examine(path: Path, *, repair: bool = False) -> Iterator[Finding]:
    """Everything about the run at `path`; with `repair` what is safe is repaired, under the run's lock."""
    if path.is_symlink():
        yield problem("directory", f"{path} is a symbolic link, and runs are never written through one")
        return
    with contextlib.ExitStack() as stack:
        owner = _owner(path)
        if repair and owner is None:
            stale = _signature(path)
            try:
                stack.enter_context(lock.hold(path / ".lock"))
            except (Locked, OSError) as error:
                yield problem("lock", f"cannot be taken ({error}), so nothing is repaired")
                repair = False
            else:
                if stale:
                    yield repaired("lock", f"the name of {stale}, which is gone, is removed")
        elif repair:
            yield note("lock", f"{owner} works on this run, so nothing is repaired")
            repair = False
        else:
            yield _lock(path, owner)
        yield from litter.of_run(path, repair=repair, busy=owner is not None)
        yield from _contents(path, owner, repair)


def _contents(path: Path, owner: str | None, repair: bool) -> Iterator[Finding]:
    try:
        run = RunDirectory.open(path)
    except RunRefused as error:
        yield problem("run.json", str(error))
        yield from examine_records(path, None, 0, repair=repair, busy=owner is not None)
        return
    yield from _identity(run)
    status = run.status()
    yield _state(run, status, owner)
    steps: list[int] = []
    yield from examine_checkpoints(run, steps)
    yield from _reached(run, status, steps)
    reached = max([*steps, step_of(status)])
    yield from examine_records(path, run, reached, repair=repair, busy=owner is not None)
    yield from _ended(run, status)


# --- lock ------------------------------------------------------------------------------------------------------------


def _owner(path: Path) -> str | None:
    try:
        return lock.holder(path / ".lock")
    except OSError:
        return None


def _signature(path: Path) -> str | None:
    """Who signed the lock file, dead or alive."""
    try:
        owner = json.loads((path / ".lock").read_text())
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _lock(path: Path, owner: str | None) -> Finding:
    if owner is not None:
        return ok("lock", f"held by {owner}: the run is being trained")
    if stale := _signature(path):
        return note("lock", f"still names {stale}, which is gone; it keeps nobody out, --repair removes the name")
    return ok("lock", "free")


# --- what the run says of itself -------------------------------------------------------------------------------------


def _identity(run: RunDirectory) -> Iterator[Finding]:
    """run.json against itself, its directory and config.yaml."""
    facts, wrong = run.identity, []
    recorded, actual = facts.get("config_hash"), config_hash(run.config)
    if recorded != actual:
        wrong.append(
            f"its config_hash {recorded} is not that of its configuration, {actual}: changed by hand, or made "
            "by another version; the same command will refuse to go on, give the run a new name=..."
        )
    if facts.get("name") != run.name:
        wrong.append(f"it is of the run {facts.get('name')!r}; rename the directory back")
    for text in wrong:
        yield problem("run.json", text)
    if not wrong:
        yield ok("run.json", f"config {recorded}, {_origin(facts)}")
    try:
        said = yaml.safe_load((run.path / "config.yaml").read_bytes())
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        yield note("config.yaml", f"cannot be read ({str(error).splitlines()[0]}); nothing but people reads it")
        return
    if said != facts["config"]:
        yield note("config.yaml", "differs from run.json, which is what counts; nothing but people reads it")


def _origin(facts: dict[str, Any]) -> str:
    git = facts.get("git")
    if not isinstance(git, dict):
        return "made by code outside git"
    changed = " with uncommitted changes" if git.get("dirty") else ""
    return f"made by commit {str(git.get('commit'))[:12]}{changed}"


def _state(run: RunDirectory, status: dict[str, Any], owner: str | None) -> Finding:
    state, step = status["state"], status.get("step")
    if status.get("reason") == "status.json is damaged":
        return problem("status.json", "is damaged and counts as failed; the same command as before resumes the run")
    if state == "running" and owner is None:
        return note("status.json", f"running at step {step}, but no process does; the same command resumes it")
    reason = f" ({status['reason']})" if status.get("reason") else ""
    return ok("status.json", f"{state} at step {step}{reason}")


def _reached(run: RunDirectory, status: dict[str, Any], steps: list[int]) -> Iterator[Finding]:
    """Whether the work that status.json speaks of can be gone on with."""
    total = run.identity.get("total_steps")
    if status["state"] == "done" and total not in steps:
        yield problem("checkpoints", f"the run is done, but its last checkpoint (step {total}) is not intact")
        return
    if step_of(status) >= run.config.training.checkpoint_every and not steps and status["state"] not in FINISHED:
        yield problem("checkpoints", "none is intact; the same command as before begins at step 0 again")


def step_of(status: dict[str, Any]) -> int:
    """The step that status.json speaks of; 0 if that is no number."""
    step = status.get("step")
    return step if isinstance(step, int) else 0


def _ended(run: RunDirectory, status: dict[str, Any]) -> Iterator[Finding]:
    """A finished run has the score of its last row."""
    if status["state"] != "done":
        return
    score = read_records(run.path).last("val/loss")
    if score is not None and status.get("score") is not None and score != status["score"]:
        yield problem("status.json", f"its score {status['score']} is not the last val/loss of metrics.jsonl, {score}")
