"""The jobs of a multirun before the first one starts: composed, checked, and none in another's directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mhc_exp.config.build import ConfigError, Problem
from mhc_exp.config.checks import accept
from mhc_exp.config.compose import compose_jobs
from mhc_exp.config.naming import config_hash, run_name
from mhc_exp.config.schema import Config

UNNAMED = "multirun"
"""Directory of a multirun without a sweep file."""


@dataclass(frozen=True)
class Planned:
    """One job to come."""

    words: list[str]
    """The overrides that make it, one value each."""
    config: Config
    sweep: str


def plan(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> list[Planned] | None:
    """The jobs of `-m OVERRIDES`, in the order in which Hydra's own sweeper runs them.

    None if only Hydra can tell: another sweeper was chosen, or nothing can be composed (Hydra then says why). Raises
    ConfigError with everything that is wrong with any of them, so that no job starts before all of them can. Costs 70
    ms a job.
    """
    if any(override.startswith(("hydra/sweeper=", "hydra.searchpath=")) for override in overrides):
        return None
    from mhc_exp.config.words import typed_keys

    composed = compose_jobs(overrides, config_dirs)
    if composed is None:
        return None
    planned: list[Planned] = []
    wrong: dict[Problem, list[int]] = {}
    for number, (words, mapping, sweep) in enumerate(composed, start=1):
        try:
            planned.append(Planned(words, accept(mapping, typed_keys(words)), sweep or UNNAMED))
        except ConfigError as error:
            for problem in error.problems:
                wrong.setdefault(problem, []).append(number)
    problems = [_in_jobs(problem, numbers, len(composed)) for problem, numbers in wrong.items()]
    problems += _collisions(planned)
    if problems:
        raise ConfigError(problems)
    return planned


def _in_jobs(problem: Problem, numbers: list[int], of: int) -> Problem:
    if len(numbers) == of:
        return problem
    shown = ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
    return Problem(problem.path, f"{problem.message} (job{'s' * (len(numbers) > 1)} {shown} of {of})")


def _collisions(planned: list[Planned]) -> list[Problem]:
    """Different experiments under one run name: the second would be refused by the directory of the first."""
    seen: dict[str, str] = {}
    for job in planned:
        name, digest = run_name(job.config), config_hash(job.config)
        if seen.setdefault(name, digest) != digest:
            return [Problem("name", f"several jobs would share the directory {name!r}; leave name= out of a sweep")]
    return []
