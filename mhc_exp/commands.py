"""The words of `mhc-exp WORD ...`, which look at runs instead of training one: one line each, read by everything else.

Both doors, `--help`, tab completion and the answer to a typo take them from `COMMANDS`.
"""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mhc_exp.config import vocabulary
from mhc_exp.config.spelling import nearest
from mhc_exp.paths import runs_root

REFUSED = 2


class Command(NamedTuple):
    """What a word does."""

    does: str
    """A few words for `--help`."""
    where: str
    """`module:function`; the function takes the arguments after the word and returns the exit code."""
    completes: str = ""
    """What its arguments are: `runs`, by directory or by name, `sources`, directories of runs, `pages`, those and what
    a Watch wrote, or `overrides`.
    """


COMMANDS = {
    "plan": Command("what a configuration needs", "mhc_exp.planning.command:main", "overrides"),
    "ls": Command("table of runs", "mhc_exp.analysis.terminal:ls", "sources"),
    "show": Command("one run", "mhc_exp.analysis.terminal:show", "runs"),
    "compare": Command("two runs", "mhc_exp.analysis.terminal:compare", "runs"),
    "inspect": Command("what a checkpoint's wiring learned", "mhc_exp.inspection.inspect:main", "runs"),
    "intervene": Command("the loss without parts of a wiring", "mhc_exp.inspection.intervene:main", "runs"),
    "bench": Command("what the wirings cost on this machine", "mhc_exp.benchmarks.bench:main"),
    "doctor": Command("is this installation, or a run, in order", "mhc_exp.doctor.command:main", "sources"),
    "report": Command("runs, or watched connections, as one page", "mhc_exp.analysis.report:main", "pages"),
    "upload": Command("runs to W&B", "mhc_exp.analysis.upload:main", "sources"),
    "dashboard": Command("W&B pages for a project", "mhc_exp.analysis.dashboard:main"),
}
TRAIN = "train"
"""A word that may stand before overrides; without it the same happens."""
BEFORE_OVERRIDES = (TRAIN, *(word for word, command in COMMANDS.items() if command.completes == "overrides"))
"""Words after which overrides are typed."""
EXTRAS = {
    "pandas": "analysis",
    "matplotlib": "analysis",
    "wandb": "wandb",
    "wandb_workspaces": "dashboard",
    "torch": "torch",
}
"""Package that a command may miss -> the extra that brings it."""


def run(word: str, arguments: Sequence[str]) -> int:
    """Do what `word` says; the exit code."""
    from mhc_exp.analysis.sources import NothingThere
    from mhc_exp.sinks.wandb_run import NoKey

    module, _, function = COMMANDS[word].where.partition(":")
    try:
        return getattr(importlib.import_module(module), function)(arguments)
    except (NothingThere, NoKey) as error:
        return refuse(word, str(error))
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package not in EXTRAS:
            raise
        return refuse(word, f"needs {package}, which is not installed; type: pip install 'mhc-exp[{EXTRAS[package]}]'")


def refuse(word: str, message: str) -> int:
    """Say why `mhc-exp WORD` cannot be done; the exit code of a refusal."""
    print(f"mhc-exp {word}: {message}", file=sys.stderr)
    return REFUSED


def mistyped(word: str) -> str | None:
    """The command that a person meant by `word`; None where a key or an option of a group is as likely."""
    if "=" in word or word.startswith(("-", "+", "~")):
        return None
    if any(word in vocabulary.options(group) for group in vocabulary.ALL_GROUPS):
        return None
    close = nearest(word, [*vocabulary.keys(), *vocabulary.OVERLAYS, *COMMANDS, TRAIN])
    return close if close in COMMANDS or close == TRAIN else None


def help_text() -> str:
    """The commands as lines of `--help`."""
    listed = ", ".join(f"{word} ({command.does})" for word, command in COMMANDS.items())
    first = "Commands, mhc-exp WORD or python -m mhc_exp WORD; each has --help: "
    return "\n".join(textwrap.wrap(first + listed, 118, break_long_words=False, break_on_hyphens=False))


# --- tab completion --------------------------------------------------------------------------------------------------


def first_words(line: str) -> list[str]:
    """Commands that the first word of the unfinished command line `line` may become; none once it is complete."""
    word, complete, _ = line.partition(" ")[2].lstrip().partition(" ")
    return [] if complete else [command for command in (*COMMANDS, TRAIN) if command.startswith(word)]


def arguments(line: str) -> list[str] | None:
    """What the last word of `line` may become where the first one is a command; None where it is not."""
    word, complete, rest = line.partition(" ")[2].lstrip().partition(" ")
    if not complete or word not in COMMANDS or COMMANDS[word].completes == "overrides":
        return None
    begun = rest.rpartition(" ")[2]
    return [found for found in _runs(COMMANDS[word].completes) if found.startswith(begun)]


def _runs(kind: str) -> list[str]:
    from mhc_exp.analysis.sources import places, watches

    root = Path(runs_root())
    if not kind or not root.is_dir():
        return []
    found = places(root)
    sweeps = dict.fromkeys(str(place.parent) for place in found)
    names = [place.name for place in found] if kind == "runs" else [str(root), *sweeps]
    names += map(str, watches(root)) if kind == "pages" else []
    return list(dict.fromkeys([*names, *map(str, found)]))
