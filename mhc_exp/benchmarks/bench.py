"""`mhc-exp bench [SUITE ...]`: suites measured one after the other, as tables, JSON and pictures."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args, get_type_hints

import mhc_exp
from mhc_exp.analysis.terminal import command_parser
from mhc_exp.benchmarks import cases, pictures
from mhc_exp.benchmarks.agreement import Disagreement
from mhc_exp.benchmarks.children import ChildFailed
from mhc_exp.benchmarks.result import Options, Result, Unsuitable
from mhc_exp.benchmarks.table import heading, markdown
from mhc_exp.commands import refuse
from mhc_exp.config import machine
from mhc_exp.config.schema import Backend, Config
from mhc_exp.config.spelling import suggest
from mhc_exp.paths import runs_root
from mhc_exp.runs.identity import git_state, now, versions
from mhc_exp.threads import thread_limit, usable_cpus

SUITES = {
    "connection": "one connection around the identity, forward and backward, tiers of every wiring",
    "step": "a whole training step over the baseline's, wirings x tiers x widths x depths",
    "sinkhorn": "the chart of mHC alone, by iterations",
    "startup": "from the start of a process to the end of its first update, by phase",
    "memory": "by how much a training step makes a process larger, by depth and tier",
    "depth": "step time from 12 to 192 blocks, and its linearity",
    "peers": "other people's wrappers beside ours (hyper-connections, if installed)",
}
"""Word -> what it measures; the module of that name has `run`."""
PYTORCH_ONLY = ("connection", "sinkhorn", "peers")
FAILED = 1
ROUNDS, QUICK_ROUNDS = 7, 2


def main(arguments: Sequence[str]) -> int:
    """`arguments` follow the word; the exit code: 1 if tiers disagree, 2 if it cannot be measured here."""
    given = _parser().parse_args(arguments)
    try:
        options, chosen = _options(given), _suites(given.suites)
        for wiring in options.wirings or ():
            cases.overrides(wiring)
    except Unsuitable as reason:
        return refuse("bench", str(reason))
    with thread_limit(options.threads):
        return _measure(chosen, options, _facts(options, arguments), given)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("bench", "What the wirings cost on this machine, measured in turns.")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    listed = "\n".join(f"  {name:<11} {what}" for name, what in SUITES.items())
    parser.epilog = (
        f"suites:\n{listed}\n\nBefore anything is timed, tiers are compared on the same inputs: exit code 1 if they "
        "disagree.\ndocs/performance.md says how to read the tables."
    )
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="default: all")
    parser.add_argument("--wiring", nargs="+", metavar="NAME", help=f"{_quoted(cases.WIRINGS)}, or any variant")
    parser.add_argument(
        "--tier", nargs="+", choices=_tiers(), default=_quick_tiers(), help=f"default: {_quoted(_quick_tiers())}"
    )
    parser.add_argument("--width", nargs="+", type=_positive, metavar="C", help="default: the suite's own")
    parser.add_argument("--depth", nargs="+", type=_positive, metavar="L", help="default: the suite's own")
    parser.add_argument("--rounds", type=_positive, help=f"default: {ROUNDS}, {QUICK_ROUNDS} with --quick")
    parser.add_argument("--threads", type=_positive, default=1, help="default: 1")
    parser.add_argument("--backend", choices=("auto", *machine.PACKAGES), default="auto", help="default: auto")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it work, not how fast is it")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="default: a new one below $MHC_RUNS/bench, or runs/bench"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: DIR/bench.json")
    return parser


def _quoted(names: Sequence[str] | dict[str, Any]) -> str:
    return ", ".join(shlex.quote(name) for name in names)


def _tiers() -> list[str]:
    """Values of backend.kernels that name a tier, the eager one first."""
    named = (name for name in get_args(get_type_hints(Backend)["kernels"]) if name != "auto")
    return sorted(named, key=lambda name: (name != "eager", name))


def _quick_tiers() -> list[str]:
    """Those that are ready within seconds."""
    return [tier for tier in _tiers() if tier != "compiled"]


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"a positive whole number, not {text!r}")
    return number


def _options(given: argparse.Namespace) -> Options:
    """What every suite is asked. Raises Unsuitable."""
    found = cases.configuration(["variant=baseline", "tracking=local", f"backend={given.backend}"])
    if not isinstance(found, Config):
        raise Unsuitable(found)
    rounds = given.rounds or (QUICK_ROUNDS if given.quick else ROUNDS)
    wirings, widths, depths = (tuple(words) if words else None for words in (given.wiring, given.width, given.depth))
    tiers = tuple(dict.fromkeys(given.tier))
    return Options(found.backend.name, given.threads, rounds, wirings, tiers, widths, depths, given.quick)


def _suites(words: Sequence[str]) -> list[str]:
    """The suites asked for. Raises Unsuitable."""
    for word in words:
        if word not in SUITES:
            raise Unsuitable(f"no suite {word!r}{suggest(word, SUITES)}; allowed are {', '.join(SUITES)}")
    return list(dict.fromkeys(words)) or list(SUITES)


def _run(name: str, options: Options) -> Result:
    """One suite. Raises Disagreement, ChildFailed and Unsuitable."""
    if name in PYTORCH_ONLY and options.backend == "mlx":
        others = " ".join(suite for suite in SUITES if suite not in PYTORCH_ONLY)
        raise Unsuitable(f"{name} is of PyTorch alone; type --backend cpu, or choose of {others}")
    result = importlib.import_module(f"mhc_exp.benchmarks.{name}").run(options)
    if not result.rows:
        raise Unsuitable(f"{name} has nothing to measure; {'; '.join(result.notes)}")
    return result


def _measure(names: Sequence[str], options: Options, facts: dict[str, Any], given: argparse.Namespace) -> int:
    """Run, print and write; what was measured before a failure is kept. Suites that nobody named may be left out."""
    named, written = bool(given.suites), []
    directory = given.out or Path(runs_root()) / "bench" / facts["date"].replace(":", "-")
    results: list[Result] = []
    print(heading(facts), flush=True)
    problem = None
    for name in names:
        try:
            result = _run(name, options)
        except Unsuitable as reason:
            if not named:
                print(f"mhc-exp bench: left out: {reason}\n", file=sys.stderr)
                continue
            problem = reason
            break
        except (Disagreement, ChildFailed) as reason:
            problem = reason
            break
        results.append(result)
        print(markdown(result), flush=True)
        written += _write(facts, results, directory, given.json)
    if results and not machine.installed("matplotlib"):
        print("no pictures: matplotlib is not installed; type: pip install 'mhc-exp[analysis]'", file=sys.stderr)
    print("\n".join(map(os.path.relpath, written)))
    if problem is None:
        return 0
    code = refuse("bench", str(problem))
    return code if isinstance(problem, Unsuitable) else FAILED


def _facts(options: Options, arguments: Sequence[str]) -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "command": shlex.join(["mhc-exp", "bench", *arguments]),
        "date": now(),
        "git": git_state(Path(mhc_exp.__file__).resolve().parent.parent),
        "versions": versions(),
        "processor": machine.processor(),
        "platform": platform.platform(),
        "cpus": usable_cpus(),
        "device": options.backend,
        "threads": options.threads,
        "rounds": options.rounds,
    }


def _write(facts: dict[str, Any], results: Sequence[Result], directory: Path, file: Path | None) -> list[Path]:
    """JSON and Markdown of all results so far, and a picture of the last; the files that are new."""
    directory.mkdir(parents=True, exist_ok=True)
    file = file or directory / "bench.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    suites = {result.suite: asdict(result) for result in results}
    file.write_text(json.dumps(facts | {"suites": suites}, indent=1) + "\n", encoding="utf-8")
    report = directory / "bench.md"
    report.write_text("\n".join([heading(facts), *map(markdown, results)]), encoding="utf-8")
    written = [file, report] if len(results) == 1 else []
    return [*written, pictures.draw(results[-1], directory)] if machine.installed("matplotlib") else written
