"""What run.json says a run is: configuration, code, machine, command."""

from __future__ import annotations

import os
import platform
import secrets
import socket
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import mhc_exp
from mhc_exp.config.build import as_mapping
from mhc_exp.config.naming import config_hash
from mhc_exp.config.schema import Config
from mhc_exp.runs.redaction import redact_command
from mhc_exp.threads import usable_cpus

FORMAT = 1
_PACKAGES = ("numpy", "torch", "mlx", "hydra-core", "wandb", "safetensors")
_GIT_SECONDS = 5.0


def identity(config: Config, *, name: str, sweep: str | None, command: list[str]) -> dict[str, Any]:
    """Everything known before training; the worker adds device, data and weights (`RunDirectory.add_facts`)."""
    return {
        "format": FORMAT,
        "name": name,
        "sweep": sweep,
        "config_hash": config_hash(config),
        "config": as_mapping(config),
        "created": now(),
        "command": redact_command(command),
        # Random, not derived: W&B never accepts the id of a deleted run again.
        "wandb_id": secrets.token_hex(5),
        **code(),
        "packages": installed(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": usable_cpus(),
        "hostname": socket.gethostname(),
    }


def code() -> dict[str, Any]:
    """Which code trains: commit of the checkout, whether it was changed since, versions of what decides numbers."""
    return {"git": git_state(Path(mhc_exp.__file__).resolve().parent.parent), "versions": versions()}


def now() -> str:
    """This moment in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str | None]:
    """Installed versions, read from package metadata so that nothing is imported."""
    found: dict[str, str | None] = {"python": platform.python_version(), "mhc_exp": mhc_exp.__version__}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def installed() -> dict[str, str]:
    """Name and version of every installed package, what `pip freeze` prints, by the names of their directories: 10
    times faster than reading the metadata of each.
    """
    found: dict[str, str] = {}
    for place in filter(os.path.isdir, sys.path):
        for name in os.listdir(place):
            package, dash, version = name.removesuffix(".dist-info").partition("-")
            if dash and name.endswith(".dist-info"):
                found.setdefault(package.lower().replace("_", "-"), version)
    return dict(sorted(found.items()))


def git_state(checkout: Path) -> dict[str, Any] | None:
    """Commit of `checkout` and whether tracked files differ from it; None if it is not the root of a repository.

    An installed package is no checkout, even where its virtual environment lies inside somebody's repository.
    """
    if not (checkout / ".git").exists():
        return None
    commit = _git(checkout, "rev-parse", "HEAD")
    if commit is None:
        return None
    changes = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(checkout: Path, *arguments: str) -> str | None:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            ["git", "-C", str(checkout), *arguments],
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):  # no git here, or a repository on a stuck network drive
        return None
    return done.stdout.strip() if done.returncode == 0 else None
