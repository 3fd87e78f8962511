"""From a configuration to a trained run: skip what is done, refuse what conflicts, resume or start the rest."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mhc_exp.config.build import ConfigError, as_mapping
from mhc_exp.config.checks import resolve_backend
from mhc_exp.config.naming import IRRELEVANT, config_hash
from mhc_exp.config.schema import Config
from mhc_exp.runs.directory import FINISHED, RunDirectory, RunRefused
from mhc_exp.runs.disk import discard
from mhc_exp.runs.lock import Locked
from mhc_exp.runs.preflight import preflight

REFUSED, DIVERGED = 2, 3


@dataclass(frozen=True)
class Result:
    """What became of one job."""

    state: str
    """done, skipped (done before), diverged, interrupted, failed or refused."""
    score: float | None
    path: Path | None
    exit_code: int
    """0 done or skipped, 1 failed, 2 refused, 3 diverged, 130 / 143 interrupted and saved."""
    message: str
    """One line for people (several for a refusal)."""


def launch(config: Config, *, sweep: str | None, command: list[str], multirun: bool) -> Result:
    """Make sure that the run of `config` is trained. Never raises for what a person can cause; see `Result`.

    A single run that another process trains is refused. A job of a multirun waits for that process: it may be the
    worker that a killed sweep left behind, or the same sweep typed twice.
    """
    while True:
        result = _attempt(config, sweep, command, multirun)
        if not (multirun and result.exit_code == REFUSED and result.path and _others_finished(result.path, config)):
            return result


def standing(config: Config, sweep: str | None) -> Result:
    """What the directory of `config` says about its run, without training (for jobs that ran in other processes)."""
    path = RunDirectory.location(config, sweep)
    if not path.exists():
        return Result("waiting", None, path, 1, f"{path.name}: not started")
    try:
        run = RunDirectory.open(path)
        _refuse_other_config(run, config)
    except RunRefused as error:
        return Result("refused", None, path, REFUSED, str(error))
    status = run.status()
    state = status["state"]
    if state in FINISHED:
        return _known(run, status)
    if state == "running" and run.owner() is None:
        state = "failed"  # killed together with whoever would have written it down
    return Result(
        {"created": "waiting"}.get(state, state), status.get("score"), path, 1, f"{run.name}: {state}; {path}"
    )


def _attempt(config: Config, sweep: str | None, command: list[str], multirun: bool) -> Result:
    path = None
    try:
        config = resolve_backend(config)
        path = RunDirectory.location(config, sweep)
        missing = [place for place in (path, *path.parents) if not place.exists()]
        run = _prepare(config, path, sweep, command)
    except (RunRefused, Locked, ConfigError) as error:
        return Result("refused", None, path, REFUSED, str(error))
    status = run.status()
    if status["state"] in FINISHED:
        return _known(run, status)
    heard: list[int] | None = None
    if _in_child(config, multirun):
        from mhc_exp.runs.child import train_in_child

        heard = []
        exit_code = train_in_child(run, timeout=config.launch.timeout, heard=heard)
    else:
        from mhc_exp.runs.worker import work

        exit_code = work(run)
    result = _result(run, exit_code, multirun, alone=heard == [])
    if missing and exit_code == REFUSED:
        _forget(run, missing)
    return result


def _others_finished(path: Path, config: Config) -> bool:
    """Wait for the process that trains the run of `config`, if there is one. True if its end changes the answer."""
    try:
        run = RunDirectory.open(path)
        _refuse_other_config(run, config)
    except RunRefused:
        return False
    owner = run.owner()
    if owner is None:  # gone since, or the refusal has another reason
        return run.status()["state"] in FINISHED
    print(f"{run.name} is being trained by {owner}; waiting for it", flush=True)
    deadline = None if config.launch.timeout is None else time.monotonic() + config.launch.timeout
    while run.owner() is not None:
        if deadline is not None and time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _in_child(config: Config, multirun: bool) -> bool:
    """`auto` means a child wherever something outside the worker is needed: the next job, or a clock."""
    automatic = config.launch.mode == "auto" and (multirun or config.launch.timeout is not None)
    return config.launch.mode == "process" or automatic


def _prepare(config: Config, path: Path, sweep: str | None, command: list[str]) -> RunDirectory:
    """The directory to work in, new or found. Raises RunRefused or Locked with nothing changed."""
    if not path.exists():
        try:
            preflight(config, path)
            return RunDirectory.create(config, sweep=sweep, command=command)
        except FileExistsError:
            pass  # another process was faster
        except OSError as error:
            raise RunRefused(f"{path} cannot be made: {error}") from error
    run = RunDirectory.open(path)
    _refuse_other_config(run, config)
    if run.status()["state"] in FINISHED:
        return run
    owner = run.owner()
    if owner is not None:
        raise RunRefused(f"{path} is being trained by {owner}; wait for it or stop it")
    preflight(config, path)
    try:
        with run.lock():
            run.adopt(config)
    except OSError as error:
        raise RunRefused(f"{path} cannot be written: {error}") from error
    return run


def _refuse_other_config(run: RunDirectory, config: Config) -> None:
    """Raise RunRefused if the directory belongs to another experiment, naming what differs.

    An unfinished run may go on on another backend (`name=mine backend=mlx`): weights and optimizer state are the same
    on all of them.
    """
    if config_hash(config) in (run.identity.get("config_hash"), config_hash(run.config)):
        return
    then, now = _flat(run.identity["config"]), _flat(as_mapping(config))
    keys = [
        key
        for key in sorted(then.keys() | now.keys())
        if then.get(key) != now.get(key) and key.partition(".")[0] not in IRRELEVANT
    ]
    if keys and all(key.startswith("backend.") for key in keys) and run.status()["state"] not in FINISHED:
        return
    lines = [f"  {key}: {then.get(key, '(absent)')} there, {now.get(key, '(absent)')} here" for key in keys] or [
        "  (the same keys: it was made by a version of mhc_exp that hashes them differently)"
    ]
    raise RunRefused(
        "\n".join(
            [
                f"{run.path} already holds another experiment:",
                *lines,
                f"Type name=... to give this one its own name, for example name={run.name}-2, or remove the directory.",
            ]
        )
    )


def _flat(mapping: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _forget(run: RunDirectory, made: list[Path]) -> None:
    """Remove the directories made for a run that could not even begin, unless somebody else begins it now."""
    with contextlib.suppress(Locked, OSError), run.lock():
        if not run.metrics_path.exists() and not run.checkpoints.steps():
            discard(run.path)
            for parent in made[1:]:
                parent.rmdir()


def _known(run: RunDirectory, status: dict[str, Any]) -> Result:
    """The stored result of a run that needs no training."""
    diverged = status["state"] == "diverged"
    state = "diverged" if diverged else "skipped"
    word = f"diverged at step {status.get('step')} before" if diverged else "done before"
    message = f"{run.name}: {word}{_score(status)}; {run.path}"
    return Result(state, status.get("score"), run.path, DIVERGED if diverged else 0, message)


def _result(run: RunDirectory, exit_code: int, multirun: bool, *, alone: bool) -> Result:
    """What became of the run. `alone`: whatever stopped it was meant for its process and not for this one."""
    status = run.status()
    state = str({1: "failed", REFUSED: "refused"}.get(exit_code, status["state"]))
    # The worker has said why it refused.
    reason = f" ({status['reason']})" if status.get("reason") and exit_code != REFUSED else ""
    message = f"{run.name}: {state}{reason}{_score(status)}; {run.path}"
    if multirun and alone and exit_code > 128:
        exit_code = 1  # it ran out of time, or somebody stopped this one job: the sweep goes on
    elif multirun and not alone and exit_code == 0 and status.get("signal"):
        exit_code = 128 + status["signal"]  # this job was complete, but the person asked the sweep to stop
    return Result(state, status.get("score"), run.path, exit_code, message)


def _score(status: dict[str, Any]) -> str:
    score = status.get("score")
    return f", score {score:.4f}" if isinstance(score, float) else ""
