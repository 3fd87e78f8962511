"""YAML files from outside conf/ (`--config-dir`, `hydra.searchpath`): refused before Hydra reads them if code is named.

Hydra instantiates its callbacks, launcher, sweeper and logging from whatever was composed, before any of our code sees
it, and its own list of forbidden targets has gaps. So a file from outside may say what to train and how to sweep it,
and nothing else to Hydra.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from mhc_exp.config.build import Problem

ALLOWED = (("sweeper", "params"), ("sweeper", "max_batch_size"), ("sweep", "dir"))
"""Keys of `hydra` that describe work."""
CALLS = ("_target_", "()", "_partial_", "_convert_")
"""Keys by which Hydra and logging name something to call."""
_INTO_HYDRA = re.compile(r"@\s*:?\s*(_global_\.)?hydra\b|@package\s+(_global_\.)?hydra\b")
"""A package that puts a file, or an entry of a defaults list, into Hydra's own configuration."""
MANY, LARGE = 10_000, 1_000_000
"""Files in a directory, and bytes of a file, beyond which it is no directory of options."""


def foreign_problems(config_dirs: Sequence[Path], searchpath: Sequence[str] = ()) -> list[Problem]:
    """What in `config_dirs`, or in directories named by `hydra.searchpath`, could do more than describe a run."""
    directories, problems = [*config_dirs], []
    for place in searchpath:
        if place.startswith(("file://", "/")):
            directories.append(Path(place.removeprefix("file://")))
        else:
            problems.append(
                Problem("hydra.searchpath", f"{place!r} is not a directory; type --config-dir DIR, or file://DIR")
            )
    for directory in directories:
        problems += _directory(directory)
    return problems


def _directory(directory: Path) -> Iterator[Problem]:
    files: list[Path] = []
    for place, _, names in os.walk(directory, followlinks=True):  # Hydra follows links too
        files += [Path(place, name) for name in names]
        if len(files) > MANY:
            yield Problem("--config-dir", f"{directory} has more than {MANY} files; name a directory of options alone")
            return
    for file in sorted(file for file in files if file.suffix in (".yaml", ".yml")):
        if file.relative_to(directory).parts[0] == "hydra":
            yield Problem(str(file), "would replace a part of Hydra; options of hydra/ cannot come from outside")
        elif reason := _reason(file):
            yield Problem(str(file), reason)


def _reason(file: Path) -> str | None:
    """Why `file` may not be composed; None for one that is no YAML at all, of which Hydra says where it is wrong."""
    if not file.is_file() or file.stat().st_size > LARGE:
        return f"is not a plain file of at most {LARGE // 1000} kB"
    try:
        text = file.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        return f"is not plain YAML: {(str(error).splitlines() or [type(error).__name__])[0]}"
    if _INTO_HYDRA.search(text):
        return "puts something into Hydra's own configuration; leave out the package hydra"
    return next(_refusals(content), None)


def _refusals(content: Any) -> Iterator[str]:
    groups = {group for group, _ in ALLOWED}
    for path in _paths(content):
        first, last, inside = path[0], path[-1], [*path[1:3]]
        if last in CALLS:
            yield f"a configuration never names code to run; leave out {'.'.join(path)}"
        if first == "hydra" and inside and (inside[0] not in groups if len(inside) == 1 else (*inside,) not in ALLOWED):
            yield f"{'.'.join(('hydra', *inside))} is Hydra's own; from outside conf/ only {_allowed()} can be set"
        if first == "defaults" and "hydra" in re.split(r"[\s/@]+", last):
            yield f"its defaults choose {last!r}; type hydra/...=... on the command line"


def _allowed() -> str:
    return ", ".join(f"hydra.{group}.{key}" for group, key in ALLOWED)


def _paths(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every key, dotted keys taken apart, and of every entry of a list of words."""
    if isinstance(content, dict):
        for key, value in content.items():
            inner = (*path, *(str(key).split(".") if not path else [str(key)]))
            yield inner
            yield from _paths(value, inner)
    elif isinstance(content, list):
        for value in content:
            yield from _paths(value, path) if isinstance(value, dict | list) else [(*path, str(value))]
