"""A run on disk: where its files are, how they are made, and how they change without ever being half written."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

from mhc_exp.config.build import ConfigError, as_mapping, build
from mhc_exp.config.naming import config_hash, run_name, slug_problem
from mhc_exp.config.schema import Config
from mhc_exp.runs import lock
from mhc_exp.runs.checkpoints import CheckpointStore
from mhc_exp.runs.disk import Disk, discard
from mhc_exp.runs.identity import identity, now
from mhc_exp.runs.redaction import redact

SINGLE = "single"
"""Directory of the runs that belong to no sweep."""
FINISHED = ("done", "diverged")
"""States that are results: the same command again returns them instead of training."""


class RunRefused(Exception):
    """Nothing was started and nothing was written; the text says why and what to type (exit code 2)."""


class RunDirectory:
    """One run: `runs_root/<sweep or "single">/<run name>/`."""

    def __init__(self, path: Path, facts: dict[str, Any], config: Config) -> None:
        """Use `create` or `open`."""
        self.path = path
        self.identity = facts
        self.config = config
        self._disk = Disk()
        self._complained: set[str] = set()
        self._facts_due = False
        """Whether `identity` knows more than run.json."""

    @staticmethod
    def location(config: Config, sweep: str | None) -> Path:
        """Where the run of `config` lives, made or not. Raises RunRefused if that is outside runs_root or a link."""
        root = Path(config.runs_root).expanduser().resolve()
        path = root
        for part in (sweep or SINGLE, run_name(config)):
            if problem := slug_problem(part):
                raise RunRefused(problem)
            path = path / part
            if path.is_symlink():
                raise RunRefused(f"{path} is a symbolic link; runs are never written through one. Remove it")
        return path

    @classmethod
    def create(cls, config: Config, *, sweep: str | None, command: list[str]) -> RunDirectory:
        """Make the directory, complete or not at all. Raises FileExistsError if it is there, RunRefused, OSError."""
        path = cls.location(config, sweep)
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = identity(config, name=path.name, sweep=sweep, command=command)
        for abandoned in path.parent.glob(f".new-{path.name}-*"):
            if not process_lives(abandoned.name.rpartition("-")[2]):
                discard(abandoned)
        fresh = path.with_name(f".new-{path.name}-{os.getpid()}")
        disk = Disk()
        disk.mkdir(fresh)
        try:
            for name in ("checkpoints", "plots"):
                disk.mkdir(fresh / name)
            disk.write_durably(fresh / "config.yaml", _yaml(facts))
            disk.write_durably(fresh / "run.json", _json(facts))
            disk.sync_directory(fresh)
            disk.rename(fresh, path)  # fails if somebody else was faster: a directory with content is never replaced
        except OSError as error:
            discard(fresh)
            if path.exists():
                raise FileExistsError(f"{path} exists") from error
            raise
        disk.sync_directory(path.parent)
        return cls(path, facts, config)

    @classmethod
    def open(cls, path: Path | str) -> RunDirectory:
        """The run at `path`. Raises RunRefused if it is not one."""
        path = Path(path).absolute()
        if path.is_symlink():
            raise RunRefused(f"{path} is a symbolic link; runs are never written through one. Use the directory itself")
        try:
            facts = json.loads((path / "run.json").read_bytes())
            config = build(facts["config"])
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RunRefused(f"{path} is not a run: it has no run.json") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise RunRefused(f"{path / 'run.json'} is damaged ({error}); remove the directory to start anew") from error
        except ConfigError as error:
            raise RunRefused(f"{path} was made by a version of mhc_exp with other keys:\n{error}") from error
        return cls(path, facts, config)

    # --- files ---------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def plots_path(self) -> Path:
        return self.path / "plots"

    @property
    def log_path(self) -> Path:
        """Console output of the worker, tracebacks included."""
        return self.path / "train.log"

    @property
    def status_path(self) -> Path:
        return self.path / "status.json"

    @property
    def lock_path(self) -> Path:
        return self.path / ".lock"

    @cached_property
    def checkpoints(self) -> CheckpointStore:
        """The checkpoints; their manifests carry the config hash and the wiring's convention."""
        facts = {"config_hash": self.identity["config_hash"], "variant": self.identity["config"]["variant"]}
        return CheckpointStore(self.path / "checkpoints", self.config.training.keep_checkpoints, facts=facts)

    # --- life ----------------------------------------------------------------------------------------------------

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Be the only process that works on this run. Raises lock.Locked naming the owner."""
        return lock.hold(self.lock_path)

    def owner(self) -> str | None:
        """Who works on this run right now, or None."""
        return lock.holder(self.lock_path)

    def status(self) -> dict[str, Any]:
        """status.json; state `created` before the first start, `failed` if the file is damaged."""
        try:
            status = json.loads(self.status_path.read_bytes())
            return status if isinstance(status, dict) and "state" in status else _DAMAGED.copy()
        except FileNotFoundError:
            return {"state": "created", "step": 0, "score": None}
        except (ValueError, RecursionError):
            return _DAMAGED.copy()

    def clean(self) -> None:
        """Delete what earlier processes left half written or half deleted. Needs the lock."""
        for name in os.listdir(self.path):
            if name.startswith(".tmp-"):
                with contextlib.suppress(OSError):
                    os.unlink(self.path / name)
        self.checkpoints.clean()

    def update_status(self, state: str | None = None, **fields: Any) -> bool:
        """Change status.json in one indivisible step; False (and one line, once) if the disk does not take it.

        Not an error: a full disk must not end a run that can still train. False, too, while facts are not in run.json.
        """
        status = self.status() | fields | {"updated": now()}
        if state is not None:
            status["state"] = state
        if isinstance(status.get("reason"), str):
            status["reason"] = redact(status["reason"])
        known = self._write_facts()
        return self._replaced(self.status_path, _json(status)) and known

    def add_facts(self, **facts: Any) -> None:
        """Add what only the worker can know (device, data, initial weights) to run.json.

        What the disk does not take is said once and tried again with every status.
        """
        self.identity = self.identity | facts
        self._facts_due = True
        self._write_facts()

    def _write_facts(self) -> bool:
        if self._facts_due:
            self._facts_due = not self._replaced(self.path / "run.json", _json(self.identity))
        return not self._facts_due

    def _replaced(self, path: Path, data: bytes) -> bool:
        try:
            self._disk.replace_durably(path, data)
        except OSError as error:
            if path.name not in self._complained:
                print(f"{path} cannot be written: {error}", file=sys.stderr, flush=True)
            self._complained.add(path.name)
            return False
        return True

    def adopt(self, config: Config) -> None:
        """Use the settings of `config` from now on: tracking, launch, or another backend, which is put on record."""
        if as_mapping(config) != self.identity["config"]:
            facts = self.identity | {"config": as_mapping(config), "config_hash": config_hash(config)}
            if as_mapping(config.backend) != self.identity["config"]["backend"]:
                handed = {"step": self.status().get("step"), "from": self.identity["config"]["backend"], "time": now()}
                facts["handed_over"] = [*self.identity.get("handed_over", []), handed]
            self._store(facts)
            self.config = config
            self._disk.replace_durably(self.path / "config.yaml", _yaml(self.identity))

    def _store(self, facts: dict[str, Any]) -> None:
        self._disk.replace_durably(self.path / "run.json", _json(facts))
        self.identity = facts


_DAMAGED: dict[str, Any] = {"state": "failed", "step": 0, "score": None, "reason": "status.json is damaged"}


def process_lives(pid: str) -> bool:
    """Whether a process of this machine has the id `pid`; text that is no number is nobody's."""
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=1, allow_nan=False).encode() + b"\n"


def _yaml(facts: dict[str, Any]) -> bytes:
    import yaml

    title = f"# Full configuration of {facts['name']}, for people; the worker reads run.json.\n"
    return title.encode() + yaml.safe_dump(facts["config"], sort_keys=False, allow_unicode=True).encode()
