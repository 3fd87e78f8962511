"""`mhc-exp doctor [RUN_OR_DIRECTORY ...] [--repair]`: exit code 0 if all is well, 1 if there is a problem."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

from mhc_exp.analysis import sources
from mhc_exp.analysis.sources import NothingThere
from mhc_exp.analysis.terminal import command_parser
from mhc_exp.commands import refuse
from mhc_exp.config.spelling import suggest
from mhc_exp.doctor import installation, litter, run, storage, tracker
from mhc_exp.doctor.findings import Finding, said
from mhc_exp.paths import runs_root

FINE, PROBLEMS = 0, 1


def main(arguments: Sequence[str]) -> int:
    """`arguments` follow the word; the exit code."""
    parser = command_parser(
        "doctor", "Examines this installation (no argument) or runs, says what is wrong, and repairs what is safe."
    )
    parser.add_argument(
        "places", nargs="*", metavar="RUN_OR_DIRECTORY", help="a run (directory or name) or a directory of runs"
    )
    parser.add_argument(
        "--repair",
        action="store_true",
        help="cut torn ends of records, clear locks of dead processes, delete temporary files; never more",
    )
    given = parser.parse_args(arguments)
    if given.repair and not given.places:
        return refuse("doctor", "--repair is for runs; type mhc-exp doctor RUN_OR_DIRECTORY --repair")
    if not given.places:
        root = Path(runs_root())
        findings = itertools.chain(installation.examine(), storage.examine(root), tracker.examine(root))
        return _verdict(list(said(findings)))
    return _verdict([finding for place in given.places for finding in _examine(place, repair=given.repair)])


def _examine(word: str, *, repair: bool) -> list[Finding]:
    """What is found in the run or directory of runs `word`, printed as it is found. Raises NothingThere."""
    path = _path(word)
    if sources.is_run(path):
        return list(_with_title(path, run.examine(path, repair=repair)))
    places = sources.places(path)
    found = list(said(litter.examine(path, repair=repair)))
    if not places and not found:
        raise NothingThere(f"{path} has no runs; type mhc-exp ls DIRECTORY to see the runs in one")
    for place in places:
        found += _with_title(place, run.examine(place, repair=repair))
    return found


def _path(word: str) -> Path:
    """The directory that `word` names, or the one run of that name below the runs root. Raises NothingThere."""
    path, root = Path(word).expanduser(), Path(runs_root()).expanduser()
    if path.is_dir():
        return path
    named = [place for place in (sources.places(root) if root.is_dir() else []) if place.name == word]
    if len(named) == 1:
        return named[0]
    if named:
        raise NothingThere(f"{word!r} means {len(named)} runs; type one of: {', '.join(map(str, named))}")
    hint = suggest(word, [place.name for place in sources.places(root)] if root.is_dir() else [])
    raise NothingThere(f"no run or directory {word!r}, here or below {root}{hint}; type mhc-exp ls to see the runs")


def _with_title(path: Path, findings: Iterable[Finding]) -> Iterable[Finding]:
    print(f"--- {path}", flush=True)
    return said(findings)


def _verdict(findings: list[Finding]) -> int:
    count = sum(finding.level == "PROBLEM" for finding in findings)
    done = sum(finding.level == "repaired" for finding in findings)
    notes = sum(finding.level == "note" for finding in findings)
    words = [f"{count} problem{'s' * (count != 1)}"]
    words += [f"{done} repaired"] if done else []
    words += [f"{notes} note{'s' * (notes != 1)}"] if notes else []
    print(", ".join(words))
    return PROBLEMS if count else FINE
