"""A run in W&B, begun from what run.json says of it: what the sink and `mhc-exp upload` have in common."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mhc_exp.environment import environment

EXIT_CODES = {"done": 0, "diverged": 3, "interrupted": 130}
"""What W&B shows as the end of the run; anything else is 1."""
IDENTITY = (
    *("config_hash", "git", "versions", "device", "kernels", "recompute", "initial_weights", "hostname", "created"),
    *(
        "sweep",
        "vocab_size",
        "body_parameters",
        "connection_parameters",
        "flops_per_token",
        "tokens_per_step",
        "total_steps",
    ),
    *("floor", "chance", "reason", "ended", "nonfinite_total"),
)
"""Facts that W&B keeps under `config.run`, where they are known."""
_GRACE = 3.0
"""Seconds for the killed service to be gone."""


class NoKey(Exception):
    """W&B may not be asked; the text says what to type."""


def begin(
    facts: dict[str, Any],
    *,
    directory: Path,
    mode: str,
    project: str,
    entity: str | None,
    init_timeout: float,
    finish_timeout: float,
) -> Any:
    """Start the run of `facts`, the content of run.json, or go on with it; wandb's own object for it."""
    import wandb

    settings = wandb.Settings(
        console="off",  # train.log has the console
        silent=True,
        init_timeout=init_timeout,
        finish_timeout=finish_timeout,
        disable_code=True,
        disable_git=True,  # run.json has the commit; a remote's address may carry a password
    )
    config = facts["config"]
    known = {key: facts[key] for key in IDENTITY if key in facts}
    if sweep_run_id():
        known["config"] = config  # in a W&B sweep, `variant` is the word that the sweep chose and nothing else
    tracked = wandb.init(
        project=project,
        entity=entity,
        group=facts.get("sweep"),
        name=facts["name"],
        id=facts["wandb_id"],
        job_type="train",
        tags=[config["variant"]["name"], f"d{config['depth']}", config["backend"]["name"], *config["tracking"]["tags"]],
        config={**config, "run": known},
        dir=str(directory),
        mode=mode,  # type: ignore[arg-type]
        resume="allow",
        reinit="create_new",
        settings=settings,
    )
    tracked.define_metric("*", step_metric="step")
    return tracked


def talk(mode: str) -> None:
    """From here on wandb is in `mode`, whatever it read from the environment before."""
    import wandb

    os.environ["WANDB_MODE"] = mode
    wandb.teardown()


def end(tracked: Any, state: str, **summary: Any) -> None:
    """Say how the run ended, and wait for what is still to be sent."""
    tracked.summary.update({"status": state, **summary})  # W&B's own word for diverged is "failed"
    tracked.finish(exit_code=EXIT_CODES.get(state, 1))


def sweep_run_id() -> str | None:
    """Id of the run that W&B's sweep agent started this process for, or None."""
    return os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None


def has_key() -> bool:
    """Whether wandb knows an API key (environment, netrc, its settings); never asks a person for one."""
    import wandb

    settings = wandb.setup().settings
    if settings.api_key:
        return True
    try:
        from wandb.sdk.lib import wbauth

        host = settings.base_url
        return bool(wbauth.authenticate_session(host=host, source="mhc_exp", prompt=False, update_session=False))
    except Exception as error:  # not a public interface of wandb: without an answer, count as none and say why
        say(f"cannot tell whether an API key is configured ({type(error).__name__})")
        return False


@contextlib.contextmanager
def private(directory: Path) -> Iterator[None]:
    """wandb's caches in `directory` instead of the home directory, and no lines of its own on the console."""
    wanted = {
        "WANDB_DATA_DIR": str(directory / "data"),
        "WANDB_CACHE_DIR": str(directory / "cache"),
        "WANDB_SILENT": "true",
        "WANDB_MODE": "offline",  # until it is clear that this run may talk: merely asking for a key sends telemetry
    }
    with environment(wanted):
        yield


@contextlib.contextmanager
def online(directory: Path) -> Iterator[None]:
    """wandb for a command that sends or asks: no prompt, nothing in the home directory. Raises NoKey."""
    import wandb

    if (asked := os.environ.get("WANDB_MODE", "online")) not in ("online", "run", "shared"):
        raise NoKey(f"WANDB_MODE={asked} forbids to send anything; type: unset WANDB_MODE")
    with private(directory):
        if not has_key():
            raise NoKey(
                "no W&B API key is configured; type: wandb login, or set the environment variable WANDB_API_KEY"
            )
        stop_usage_reports()
        os.environ.pop("WANDB_SWEEP_ID", None)  # it would make wandb ignore the ids of the runs
        talk("online")
        try:
            yield
        finally:
            wandb.teardown()


def stop_usage_reports() -> None:
    """wandb reports its own use to the server; behind one that never answers that costs 20 s at exit (measured)."""
    with contextlib.suppress(ImportError):  # not a public interface of wandb
        from wandb.analytics.opentelemetry.opentelemetry_proxy import disable

        disable()


def kill_service() -> None:
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


def say(message: str) -> None:
    """One line that a person can tell from those of training."""
    print(f"wandb: {message}", file=sys.stderr, flush=True)
