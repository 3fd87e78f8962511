"""The main door, `python -m mhc_exp OVERRIDES`: read -> compose -> check -> launch. Exit codes are in `--help`.

`python -m mhc_exp WORD ...` is `mhc-exp WORD ...`: see `commands`.
"""

from __future__ import annotations

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mhc_exp import cli, commands
from mhc_exp.config.build import ConfigError, Problem
from mhc_exp.config.checks import accept
from mhc_exp.config.compose import compose_plain, register_sweeps, version_base
from mhc_exp.config.plan import UNNAMED, plan
from mhc_exp.config.words import typed_keys
from mhc_exp.paths import find
from mhc_exp.startup import reached


def main() -> int:
    """Do what the command line says; returns the exit code."""
    reached("hydra")
    try:
        request = cli.read(sys.argv[1:])
        planned = plan(request.overrides, request.config_dirs) if request.multirun else None
    except ConfigError as error:
        return cli.refuse(error)
    command, sys.argv[1:] = cli.as_typed(sys.argv), request.arguments
    jobs = cli.Jobs(request, command[: -len(request.arguments) or None], planned)
    plain = not (request.multirun or request.flags) and compose_plain(request.overrides)
    if plain:
        return train_one(jobs, plain, command)
    register_sweeps()
    OmegaConf.register_new_resolver("commands", commands.help_text, replace=True)  # for conf/hydra/help

    def job(composed: DictConfig) -> float | None:
        chosen = HydraConfig.get()
        sweep = (chosen.runtime.choices.get("sweep") or UNNAMED) if request.multirun else None
        words: list[str] = OmegaConf.to_container(chosen.overrides.task)  # type: ignore[assignment]
        return jobs.run(words, lambda: run(composed, sweep, command, words))

    code = cli.DONE
    try:
        hydra.main(config_path=str(find("conf")), config_name="config", **version_base())(job)()
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else cli.DONE
    except KeyboardInterrupt:
        code = cli.INTERRUPTED[0]
    return jobs.close(code)


def train_one(jobs: cli.Jobs, composed: DictConfig, command: list[str]) -> int:
    """The one run of a command line without flags; returns the exit code."""
    try:
        jobs.run(jobs.request.overrides, lambda: run(composed, None, command, jobs.request.overrides))
    except SystemExit as exit:  # a signal
        return jobs.close(exit.code if isinstance(exit.code, int) else cli.DONE)
    return jobs.close(cli.DONE)


def run(composed: DictConfig, sweep: str | None, command: list[str], words: list[str]) -> cli.Result:
    """Check the configuration that `words` make and launch it. Raises ConfigError."""
    try:
        config = accept(OmegaConf.to_container(composed, resolve=True), typed_keys(words))  # type: ignore[arg-type]
    except OmegaConfBaseException as error:
        raise ConfigError([Problem(error.full_key or "config", str(error).splitlines()[0])]) from error
    reached("configuration")
    from mhc_exp.runs.launch import launch

    return launch(config, sweep=sweep, command=command, multirun=sweep is not None)


if __name__ == "__main__":
    sys.exit(cli.enter(main))
