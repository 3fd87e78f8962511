"""Weights & Biases, kept at arm's length: it may be slow, away, full, killed or not installed; training goes on.

The loop puts rows into a bounded queue and never waits. One daemon thread imports wandb, starts the run and sends the
rows. Measured on wandb 0.31: `init` blocks up to its timeout and raises, `log` blocks for ever behind a stopped service
and raises behind a killed one, a full disk is not reported. So W&B is a mirror of metrics.jsonl, never the record.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mhc_exp.environment import environment
from mhc_exp.runs.disk import discard

if TYPE_CHECKING:
    from mhc_exp.runs.directory import RunDirectory
    from mhc_exp.sinks import Row

QUEUE = 20_000
"""Rows kept for a tracker that does not take them; more are dropped here (metrics.jsonl has them)."""
EXIT_CODES = {"done": 0, "diverged": 3, "interrupted": 130}
"""What W&B shows as the end of the run; anything else is 1."""
_PRIVACY = ("disabled", "offline", "online")
_GRACE = 3.0
"""Seconds beyond wandb's own timeouts before the thread is left behind."""


class WandbSink:
    """Mirrors rows to W&B from a thread of its own."""

    name = "wandb"
    essential = False

    def __init__(self) -> None:
        self._rows: queue.Queue[Row | None] = queue.Queue(QUEUE)
        self._thread: threading.Thread | None = None
        self._run: RunDirectory | None = None
        self._first_step: int | None = None
        self._state = "failed"
        self._asked = ""
        self._complete = True
        self._where: list[str] = []

    def open(self, run: RunDirectory, total_steps: int, resumed_at: int) -> None:
        self._run = run
        self._asked = os.environ.get("WANDB_MODE", "")
        self._thread = threading.Thread(target=self._work, name="wandb sink", daemon=True)

    def log(self, row: Row) -> None:
        """Never waits. The thread starts with the second step logged: importing wandb must not delay the first one."""
        try:
            self._rows.put_nowait(row)
        except queue.Full:
            self._complete = False
        if self._first_step is None:
            self._first_step = int(row["step"])
        elif row["step"] != self._first_step:
            self._start()

    def flush(self) -> None:
        pass

    def close(self, state: str) -> None:
        """Wait for the tracker at most its two timeouts, then leave it behind. Prints where the data is."""
        if self._run is None or self._thread is None:
            return
        self._state = state
        tracking = self._run.config.tracking
        deadline = time.monotonic() + tracking.init_timeout + tracking.finish_timeout + _GRACE
        self._start()
        while self._thread.is_alive() and time.monotonic() < deadline:
            with contextlib.suppress(queue.Full):
                self._rows.put(None, timeout=0.1)
                break
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            _say("it does not answer and is left behind")
            self._complete = False
            if "wandb" in sys.modules:
                _kill_service()
            self._thread.join(_GRACE)
        if not self._complete:
            _say(f"not every row was sent; all are in {self._run.metrics_path}")
        for line in self._where:
            _say(line)

    def _start(self) -> None:
        if self._thread is not None and self._thread.ident is None:
            self._thread.start()

    # --- in the thread -------------------------------------------------------------------------------------------

    def _work(self) -> None:
        assert self._run is not None
        try:
            with _environment(self._run.path):
                self._mirror(self._run)
        except ModuleNotFoundError as error:
            _say(f"{error.name} is not installed, so nothing is sent; type: pip install 'mhc-exp[wandb]'")
        except BaseException as error:
            self._complete = False
            _say(f"{type(error).__name__}: {error}; nothing more is sent, training continues")

    def _mirror(self, run: RunDirectory) -> None:
        import wandb

        mode = self._mode(run)
        if mode == "disabled":
            return
        _stop_usage_reports()
        try:
            tracked = self._init(wandb, run, mode)
            tracked.define_metric("*", step_metric="step")
            self._where = _directions(tracked, run)
            while (row := self._rows.get()) is not None:
                tracked.log(row)  # never step=: after a resume wandb would drop every row up to the last step it saw
            tracked.summary["status"] = self._state  # W&B's own word for diverged is "failed"
            tracked.finish(exit_code=EXIT_CODES.get(self._state, 1))
            wandb.teardown()  # here, under a deadline, and not in wandb's exit hook, which has none
        except BaseException:
            _kill_service()
            raise

    def _mode(self, run: RunDirectory) -> str:
        """disabled, offline or online: the more private of the config's and WANDB_MODE's choice."""
        wanted = run.config.tracking.wandb
        asked = {"dryrun": "offline", "run": "online", "shared": "online"}.get(self._asked, self._asked)
        choices = [choice for choice in (wanted, asked) if choice in _PRIVACY]
        mode = min(choices, key=_PRIVACY.index) if choices else "online"
        if mode == "online" and not _credentials():
            if "online" in choices:
                _say("no API key is configured, so this run is recorded offline; type: wandb login")
            return "offline"
        return mode

    def _init(self, wandb: Any, run: RunDirectory, mode: str) -> Any:
        directory = run.path / "wandb"
        before = set(directory.glob("run-*"))
        try:
            return _init(wandb, run, mode)
        except Exception as error:
            if mode != "online":
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            _say(f"no connection ({reason}); this run is recorded offline")
        _kill_service()  # it keeps the id of the failed attempt in use, and goes on calling the server
        for attempt in set(directory.glob("run-*")) - before:
            discard(attempt)
        return _init(wandb, run, "offline")


def _init(wandb: Any, run: RunDirectory, mode: str) -> Any:
    os.environ["WANDB_MODE"] = mode
    wandb.teardown()  # forget what was read from the environment before
    config, facts = run.config, run.identity
    settings = wandb.Settings(
        console="off",  # train.log has the console
        silent=True,
        init_timeout=config.tracking.init_timeout,
        finish_timeout=config.tracking.finish_timeout,
        disable_code=True,
        disable_git=True,  # run.json has the commit; a remote's address may carry a password
    )
    known = (
        *("config_hash", "git", "versions", "device", "initial_weights", "hostname", "created", "sweep", "vocab_size"),
        *("body_parameters", "connection_parameters", "flops_per_token", "tokens_per_step", "total_steps"),
        *("floor", "chance"),
    )
    return wandb.init(
        project=config.tracking.project,
        entity=config.tracking.entity,
        group=facts["sweep"],
        name=run.name,
        id=facts["wandb_id"],
        job_type="train",
        tags=[config.variant.name, f"d{config.depth}", config.backend.name, *config.tracking.tags],
        config={**facts["config"], "run": {key: facts[key] for key in known if key in facts}},
        dir=str(run.path),
        mode=mode,
        resume="allow",
        reinit="create_new",
        settings=settings,
    )


def _stop_usage_reports() -> None:
    """wandb reports its own use to the server; behind one that never answers that costs 20 s at exit (measured)."""
    with contextlib.suppress(ImportError):  # not a public interface of wandb
        from wandb.analytics.opentelemetry.opentelemetry_proxy import disable

        disable()


def _credentials() -> bool:
    """Whether wandb knows an API key (environment, netrc, its settings); never asks a person for one."""
    import wandb

    settings = wandb.setup().settings
    if settings.api_key:
        return True
    try:
        from wandb.sdk.lib import wbauth

        host = settings.base_url
        return bool(wbauth.authenticate_session(host=host, source="mhc_exp", prompt=False, update_session=False))
    except Exception as error:  # not a public interface of wandb: without an answer, stay offline and say why
        _say(f"cannot tell whether an API key is configured ({type(error).__name__})")
        return False


def _directions(tracked: Any, run: RunDirectory) -> list[str]:
    """Closing lines: where the data is and what to type."""
    files = Path(tracked.dir).parent
    if not files.is_relative_to(run.path):
        _say(f"{run.path} is not writable for wandb, which writes to {files} instead")
    if tracked.offline:
        look = f"wandb leet {shlex.quote(str(files.parent))}"
        return [f"recorded offline; look: {look}; upload: wandb sync {shlex.quote(str(files))}"]
    return [f"{tracked.url}; local copy: wandb leet {shlex.quote(str(files.parent))}"]


@contextlib.contextmanager
def _environment(path: Path) -> Iterator[None]:
    """wandb's caches inside the run instead of the home directory, and no lines of its own on the console."""
    wanted = {
        "WANDB_DATA_DIR": str(path / "wandb" / "data"),
        "WANDB_CACHE_DIR": str(path / "wandb" / "cache"),
        "WANDB_SILENT": "true",
        "WANDB_MODE": "offline",  # until it is clear that this run may talk: merely asking for a key sends telemetry
    }
    with environment(wanted):
        yield


def _say(message: str) -> None:
    print(f"wandb: {message}", file=sys.stderr, flush=True)


def _kill_service() -> None:
    """End wandb-core without waiting for what it still wants to do, and let wandb start another one next time.

    wandb's own way out, also its exit hook, waits for ever for a service that hangs.
    """
    wandb = sys.modules["wandb"]
    try:
        service = wandb.setup()._connection._proc._process
    except AttributeError:  # not started, or another version of wandb keeps it elsewhere
        return
    service.kill()
    service.wait(_GRACE)
    with contextlib.suppress(Exception):
        wandb.teardown()
