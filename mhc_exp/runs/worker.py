"""The process that trains: `python -m mhc_exp.runs.worker RUN_DIRECTORY`.

It reads nothing but the run directory, so torchrun, Slurm, a debugger or a bare machine start it the same way. Imports
wait until the number of threads is set; neither hydra nor wandb is loaded before the first step.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mhc_exp.startup import reached
from mhc_exp.threads import thread_count, thread_limit

if TYPE_CHECKING:
    from mhc_exp.config.schema import Config
    from mhc_exp.data.task import Task
    from mhc_exp.runs.directory import RunDirectory
    from mhc_exp.sinks import Sink
    from mhc_exp.training.loop import Outcome
    from mhc_exp.training.trainer import Trainer

DONE, FAILED, REFUSED, DIVERGED = 0, 1, 2, 3
CODE = ("git", "versions")
"""Facts of run.json that say which code trains."""


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 refused, 3 diverged, 130 / 143 interrupted and saved."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m mhc_exp.runs.worker RUN_DIRECTORY", file=sys.stderr)
        return REFUSED
    with thread_limit(_threads(Path(arguments[0]))):
        from mhc_exp.runs.directory import RunDirectory, RunRefused

        try:
            run = RunDirectory.open(arguments[0])
        except RunRefused as error:
            print(error, file=sys.stderr)
            return REFUSED
        return work(run)


def work(run: RunDirectory) -> int:
    """Train `run` to its end in this process; returns the exit code. Everything printed also goes to train.log."""
    from mhc_exp.runs.lock import Locked
    from mhc_exp.runs.tee import teed

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(run.lock())
            stack.enter_context(teed(run.log_path))
        except (Locked, OSError) as error:
            print(error, file=sys.stderr)
            return REFUSED
        stack.enter_context(thread_limit(thread_count(run.config.backend.threads, run.config.model.width)))
        stack.enter_context(_log_to_console())
        return _supervise(run)


def _supervise(run: RunDirectory) -> int:
    """Record in status.json whatever happens."""
    from mhc_exp.config.build import ConfigError
    from mhc_exp.runs.directory import FINISHED, RunRefused
    from mhc_exp.runs.identity import now
    from mhc_exp.training.backends import BackendMissing
    from mhc_exp.training.loop import NotSaved

    before = run.status()
    if before["state"] in FINISHED:  # somebody else finished it while we waited for the lock
        print(f"{run.name} is {before['state']} already")
        return DIVERGED if before["state"] == "diverged" else DONE
    attempt = before.get("attempt", 0) + 1
    started = {"pid": os.getpid(), "host": socket.gethostname(), "attempt": attempt, "started": now()}
    run.update_status("running", **started, ended=None, reason=None, signal=None)
    try:
        outcome, task = _train(run)
    except (RunRefused, ConfigError, BackendMissing) as error:  # nothing was trained; the text says what to type
        print(f"{run.name} cannot be trained here:\n{error}", file=sys.stderr)
        run.update_status(before["state"], reason=str(error).strip(), ended=now())
        return REFUSED
    except BaseException as error:
        if isinstance(error, NotSaved):
            print(error, file=sys.stderr)
        else:
            traceback.print_exc()
        run.update_status("failed", reason=_reason(error), ended=now())
        return FAILED
    fields = {"step": outcome.step, "score": outcome.score, "signal": outcome.signal, "ended": now()}
    if not run.update_status(outcome.state, **fields):
        return FAILED  # the disk says nothing of the result, so it may not be called one
    if outcome.state != "interrupted":
        _show(run, task)
    return {"done": DONE, "diverged": DIVERGED}.get(outcome.state, 128 + (outcome.signal or signal.SIGTERM))


def _train(run: RunDirectory) -> tuple[Outcome, Task]:
    from mhc_exp.data import make_task
    from mhc_exp.sinks import Fanout
    from mhc_exp.sinks.jsonl import JsonlSink
    from mhc_exp.training.backends import make_trainer
    from mhc_exp.training.loop import train
    from mhc_exp.training.signals import StopRequest

    with StopRequest() as stop:
        run.clean()
        reached("run directory")
        task = make_task(run.config)
        reached("data")
        _same_data(run, task.identity())
        for name, text in task.files().items():  # a trained tokenizer: a checkpoint is unreadable without it
            (run.path / name).write_text(text, encoding="utf-8")
        trainer = make_trainer(run.config, task.vocab_size)
        _record_facts(run, task, trainer)
        record = JsonlSink()
        sinks = Fanout([record, *_mirrors(run.config)], layers=JsonlSink(file="layers.jsonl"))
        run.checkpoints.before_commit = sinks.flush
        state = "failed"
        try:
            outcome = train(run.config, task, trainer, run, sinks, stop)
            state = outcome.state
        finally:
            sinks.close(state)
    if record.unwritten:
        raise OSError(f"{record.unwritten} rows could not be written to {run.metrics_path}")
    return outcome, task


def _mirrors(config: Config) -> list[Sink]:
    from mhc_exp.sinks.console import ConsoleSink

    mirrors: list[Sink] = [ConsoleSink()]
    if config.tracking.wandb != "off":
        from mhc_exp.sinks.wandb import WandbSink

        mirrors.append(WandbSink())
    if config.tracking.tensorboard:
        from mhc_exp.sinks.tensorboard import TensorboardSink

        mirrors.append(TensorboardSink())
    return mirrors


def _same_data(run: RunDirectory, data: dict[str, Any]) -> None:
    """Refuse to continue a run on other data than it began with."""
    from mhc_exp.runs.directory import RunRefused

    data = json.loads(json.dumps(data))
    known = run.identity.get("data")
    if known is not None and known != data:
        changed = sorted(key for key in known.keys() | data.keys() if known.get(key) != data.get(key))
        lines = [f"  {key}: {known.get(key)} then, {data.get(key)} now" for key in changed]
        raise RunRefused(
            "\n".join([f"{run.name} began with other data; restore it, or give a new run another name=...", *lines])
        )
    run.add_facts(data=data)


def _record_facts(run: RunDirectory, task: Task, trainer: Trainer) -> None:
    """What is known once the trainer stands: device, sizes, and the hash of the weights before the first update."""
    from mhc_exp.body.flops import training_flops_per_token
    from mhc_exp.body.parameters import fingerprint
    from mhc_exp.sinks.wandb_run import sweep_run_id

    facts: dict[str, Any] = {
        "device": trainer.device,
        "kernels": trainer.kernels,
        "recompute": trainer.recompute,
        "vocab_size": task.vocab_size,
        "body_parameters": trainer.body_parameters,
        "connection_parameters": trainer.connection_parameters,
        "flops_per_token": training_flops_per_token(run.config, task.vocab_size),
    }
    if (id_of_agent := sweep_run_id()) is not None:  # rows must go where the table of W&B's sweep looks for them
        facts["wandb_id"] = id_of_agent
    if "initial_weights" not in run.identity:
        facts["initial_weights"] = fingerprint(trainer.state().model)
    else:
        facts |= _other_code(run)
    run.add_facts(**facts)


def _other_code(run: RunDirectory) -> dict[str, Any]:
    """Said and put on record where a run goes on with other code or packages than it had: its numbers may change."""
    from mhc_exp.runs.identity import code, now

    handed = run.identity.get("continued_by", [])
    before, after = [{**run.identity, **known}[name] for known in handed[-1:] or [{}] for name in CODE], code()
    if before == [after[name] for name in CODE]:
        return {}
    changed = ", ".join(name for name, old in zip(CODE, before, strict=True) if old != after[name])
    print(f"{run.name} goes on with other code ({changed}) than before (run.json: continued_by)", file=sys.stderr)
    return {"continued_by": [*handed, {"step": run.status().get("step"), "time": now(), **after}]}


def _show(run: RunDirectory, task: Task) -> None:
    """Plots and the closing lines. The result stands whether or not they can be made."""
    for make in (_compare, _plot, _print_result):
        try:
            make(run, task)
        except ModuleNotFoundError as error:
            package = str(error.name).partition(".")[0]
            print(f"no plots: {package} is not installed; type: pip install 'mhc-exp[analysis]'", file=sys.stderr)
        except Exception:
            traceback.print_exc()
            print("the run is complete; only what comes after it failed (see above)", file=sys.stderr)


def _compare(run: RunDirectory, task: Task) -> None:
    from mhc_exp.data.yardsticks import yardsticks

    if "yardsticks" not in run.identity and (measured := yardsticks(task)) is not None:
        run.add_facts(yardsticks=measured)


def _plot(run: RunDirectory, task: Task) -> None:
    from mhc_exp.analysis.plots import plot_run

    plot_run(run.path)


def _print_result(run: RunDirectory, task: Task) -> None:
    from mhc_exp.analysis.result import result_text

    print(result_text(run.path), flush=True)


@contextlib.contextmanager
def _log_to_console() -> Iterator[None]:
    """Warnings of the package appear on stderr (as it is now) and nowhere else, whatever Hydra set up."""
    logger = logging.getLogger("mhc_exp")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = before
        logger.removeHandler(handler)


def _threads(path: Path) -> int | None:
    """Threads of the run, decided before anything that reads the environment is imported."""
    try:
        config = json.loads((path / "run.json").read_bytes())["config"]
        return thread_count(config["backend"]["threads"], config["model"]["width"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # RunDirectory.open says what is wrong


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
