"""The console script `mhc-exp`, and what both doors share: reading a command line, and keeping count of its jobs."""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mhc_exp import __version__, commands
from mhc_exp.config.build import ConfigError, Problem
from mhc_exp.config.overrides import override_problems
from mhc_exp.config.spelling import nearest
from mhc_exp.config.vocabulary import OVERLAYS, keys
from mhc_exp.runs.redaction import redact

if TYPE_CHECKING:
    from mhc_exp.config.plan import Planned
    from mhc_exp.runs.launch import Result

DONE, FAILED, REFUSED, DIVERGED = 0, 1, 2, 3
INTERRUPTED = (130, 143)
"""Exit codes: 128 + the signal (SIGINT, SIGTERM)."""
_OF_MANY = ("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper")
"""Settings that say how many jobs are run, not what a job is."""


def main() -> int:
    """`mhc-exp [train] OVERRIDES`: `python -m mhc_exp OVERRIDES` with tab completion; or `mhc-exp WORD`."""

    def train() -> int:
        from mhc_exp.__main__ import main as train

        return train()

    return enter(train)


def enter(train: Callable[[], int]) -> int:
    """What both doors do: the first word decides. An override is never a command, because it has a `=` in it."""
    first = sys.argv[1] if len(sys.argv) > 1 else ""
    if first in ("-sc", "--shell-completion"):
        return guarded(lambda: complete(train))
    if first in commands.COMMANDS:
        return guarded(lambda: commands.run(first, sys.argv[2:]))
    if first == commands.TRAIN:
        del sys.argv[1]
    elif first and (meant := commands.mistyped(first)):
        return commands.refuse(first, f"no such command; did you mean mhc-exp {meant}? (mhc-exp --help lists them)")
    return guarded(train)


def complete(train: Callable[[], int]) -> int:
    """Answer the shell: commands and their arguments are ours, everything else is Hydra's (it ignores COMP_POINT)."""
    line = os.environ.get("COMP_LINE", "")
    if (offers := commands.arguments(line)) is not None:
        print(*offers, sep="\n")
        return DONE
    if offers := commands.first_words(line) if line else []:
        print(*offers, sep="\n")
    for word in commands.BEFORE_OVERRIDES:
        program, found, rest = line.partition(f" {word} ")
        if found and " " not in program:
            os.environ["COMP_LINE"] = f"{program} {rest}"
    return train()


def guarded(door: Callable[[], int]) -> int:
    """The exit code of `door`; a reader that has seen enough (`--help | head`) is no error, nor is a closed stream."""
    with_streams()
    try:
        code = door()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    return code


def with_streams() -> None:
    """Give a process whose stdout or stderr was closed (`>&-`) one that swallows everything."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


@dataclass(frozen=True)
class Request:
    """A command line, taken apart."""

    overrides: list[str]
    flags: list[str]
    """Everything else, for Hydra."""
    multirun: bool
    config_dirs: list[Path] = field(default_factory=list)
    """Where options are looked for beside conf/."""

    @property
    def elsewhere(self) -> bool:
        """Whether another launcher (joblib, submitit) runs the jobs in processes of its own."""
        return any(override.startswith("hydra/launcher=") for override in self.overrides)

    @property
    def arguments(self) -> list[str]:
        """In the order that Hydra 1.3 understands too: it refuses overrides after a flag that takes a value."""
        return [*self.overrides, *self.flags]

    def one_job(self, words: Sequence[str]) -> list[str]:
        """The arguments that make the job of `words` alone, in the directory that it has in this multirun."""
        ours = [word for word in self.overrides if word.startswith("hydra") and not word.startswith(_OF_MANY)]
        return [*self.flags, *words, *ours]


def read(arguments: Sequence[str]) -> Request:
    """The command line `arguments`. Raises ConfigError for every word in it that is wrong, all at once."""
    import hydra
    from hydra._internal.utils import get_args_parser

    if "--version" in arguments:
        print(f"mhc-exp {__version__} (Hydra {hydra.__version__})")
        raise SystemExit(DONE)
    parsed, unknown = get_args_parser().parse_known_intermixed_args(list(arguments))
    flags = list(arguments)
    for override in parsed.overrides:
        flags.remove(override)
    config_dirs = [Path(parsed.config_dir)] if parsed.config_dir else []
    multirun = parsed.multirun and not (parsed.help or parsed.hydra_help or parsed.shell_completion)
    request = Request(parsed.overrides, [flag for flag in flags if flag != "--"], multirun, config_dirs)
    if parsed.shell_completion or parsed.hydra_help:
        return request
    problems = [_unknown_flag(flag) for flag in unknown]
    if parsed.config_path or parsed.config_name:
        problems.append(
            Problem(
                "--config-path, --config-name", "conf/ is not replaceable; add your own files with --config-dir DIR"
            )
        )
    if parsed.experimental_rerun:
        problems.append(Problem("--experimental-rerun", "unpickles a file; type the run's own command again to resume"))
    if parsed.resolve and not parsed.cfg:
        problems.append(Problem("--resolve", "belongs to --cfg; type --cfg job --resolve"))
    modes = {"--run": parsed.run, "--multirun": parsed.multirun, "--cfg": parsed.cfg, "--info": parsed.info}
    if len(given := [flag for flag, value in modes.items() if value]) > 1:
        problems.append(Problem(" and ".join(given), "only one of them at a time"))
    problems += [
        Problem("--config-dir", f"no directory {str(path)!r}; it holds folders such as variant/ and experiment/")
        for path in config_dirs
        if not path.is_dir()
    ]
    problems += override_problems(request.overrides, multirun=parsed.multirun, config_dirs=config_dirs)
    if problems:
        raise ConfigError(problems)
    return request


def _unknown_flag(flag: str) -> Problem:
    word, _, value = flag.lstrip("-").partition("=")
    key = nearest(word.replace("-", "_"), [*keys(), *OVERLAYS])
    hint = f"type {key}={value or '...'}" if key else "see --help"
    return Problem(flag, f"no such flag; keys are written without dashes, {hint}")


def as_typed(argv: list[str]) -> list[str]:
    """The command as a person would type it again."""
    module = Path(argv[0]).name == "__main__.py"
    return [*(("python", "-m", "mhc_exp") if module else (Path(argv[0]).name,)), *argv[1:]]


def refuse(error: ConfigError) -> int:
    """Say what is wrong; the exit code of a refusal."""
    count = len(error.problems)
    print(f"Refused, nothing was started ({count} problem{'s' * (count > 1)}):", file=sys.stderr)
    print(*(redact(f"  {problem}") for problem in error.problems), sep="\n", file=sys.stderr)
    return REFUSED


@dataclass(frozen=True)
class Job:
    """How one job ended."""

    words: list[str]
    state: str
    exit_code: int
    score: float | None = None
    path: Path | None = None


@dataclass
class Jobs:
    """The jobs of one command line, in order."""

    request: Request
    program: list[str] = field(default_factory=lambda: ["mhc-exp"])
    """What a person types before the arguments."""
    planned: list[Planned] | None = None
    """All jobs of a multirun, where that can be known beforehand."""
    finished: list[Job] = field(default_factory=list)
    process: int = field(default_factory=os.getpid)

    def run(self, words: list[str], work: Callable[[], Result]) -> float | None:
        """Do `work` and note how it ended; a bad end never stops the jobs after it, a signal does.

        Returns the score, which is what a sweeper optimises. In a process of another launcher (joblib, submitit) nobody
        reads the notes: the directories of planned jobs tell how they ended, the bad end of another one is raised.
        """
        if self.request.multirun:
            print(f"--- job {self._number(words)}: {' '.join(words) or 'as configured'}", flush=True)
        job = self._ended(words, work)
        self.finished.append(job)
        if job.exit_code in INTERRUPTED:
            raise SystemExit(job.exit_code)
        if job.exit_code and os.getpid() != self.process and self.planned is None:
            raise RuntimeError(f"{job.state}: {' '.join(words)}")
        return job.score

    def _number(self, words: list[str]) -> str:
        """`3 of 8`; where the jobs are not known beforehand, how many this process has begun."""
        planned = [job.words for job in self.planned or ()]
        return f"{planned.index(words) + 1} of {len(planned)}" if words in planned else str(len(self.finished) + 1)

    def _ended(self, words: list[str], work: Callable[[], Result]) -> Job:
        try:
            result = work()
        except ConfigError as error:
            return Job(words, "refused", refuse(error))
        except KeyboardInterrupt:
            return Job(words, "interrupted", INTERRUPTED[0])
        except Exception:
            traceback.print_exc()
            return Job(words, "failed", FAILED)
        if result.state != "done":  # a run that trained to its end has said so itself
            print(result.message, file=sys.stderr if result.exit_code else sys.stdout)
        return Job(words, result.state, result.exit_code, result.score, result.path)

    def close(self, of_hydra: int) -> int:
        """Print the table of a multirun; the exit code of the command: one kind of bad end gives its code, several 1.

        A refusal says that nothing was written, so it gives its code only if every job was refused.

        `of_hydra` is the code Hydra itself ended with; without any job it says whether something could be composed.
        """
        jobs = self.known()
        if self.request.multirun and jobs:
            print(self.table(jobs))
        codes = {job.exit_code for job in jobs} - {DONE}
        if not jobs and of_hydra == FAILED and not self.request.elsewhere:
            return REFUSED
        if not codes:
            return of_hydra
        signals = codes & {*INTERRUPTED}
        if signals or of_hydra in INTERRUPTED:
            return max(signals | ({of_hydra} & {*INTERRUPTED}))
        everywhere = all(job.exit_code for job in jobs)
        return codes.pop() if len(codes) == 1 and (everywhere or codes != {REFUSED}) else FAILED

    def known(self) -> list[Job]:
        """Every job: those that ended here, and what the directories say about those that did not."""
        if not self.request.multirun or self.planned is None:
            return self.finished
        from mhc_exp.runs.launch import standing

        others = []
        for job in self.planned[len(self.finished) :]:
            found = standing(job.config, job.sweep)
            others.append(Job(job.words, found.state, found.exit_code, found.score, found.path))
        return [*self.finished, *others]

    def table(self, jobs: list[Job]) -> str:
        """One line per job: number, state, score, directory, the command that runs it alone (or resumes it)."""
        lines = [("job", "state", "score", "directory", "command to rerun")]
        for number, job in enumerate(jobs, start=1):
            score = "" if job.score is None else f"{job.score:.4f}"
            state = "done" if job.state == "skipped" else job.state
            directory = os.path.relpath(job.path) if job.path else ""
            command = shlex.join([*self.program, *self.request.one_job(job.words)])
            lines.append((str(number), state, score, directory, command))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
        table = ["  ".join(line).rstrip() for line in padded]
        missing = sum(job.exit_code != DONE for job in jobs)
        again = f"{missing} of {len(jobs)} are not done; the same command again takes up those that can go on"
        return "\n".join([*table, again] if missing else table)
