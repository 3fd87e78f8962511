"""`mhc-exp plan OVERRIDES...`: what a run would need, on this machine or on another; nothing is trained or written."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

from mhc_exp.config.build import ConfigError
from mhc_exp.config.checks import NATIVE_STREAMS, check, resolve_backend
from mhc_exp.config.compose import compose
from mhc_exp.config.effect import idle_problems
from mhc_exp.config.schema import Config
from mhc_exp.planning import error, pages
from mhc_exp.planning.machines import MACHINES, MEASURED, Machine
from mhc_exp.topology import families

ABOUT_THE_MODEL = ("variant", "model.", "training", "optimizer")
"""Problems that hold on any machine; what this one lacks does not matter to a plan for another."""


def main(arguments: Sequence[str]) -> int:
    """`arguments` follow the word; the exit code."""
    parser = argparse.ArgumentParser(
        prog="mhc-exp plan",
        description="Parameters, FLOPs, bytes moved, activation memory and predicted step time of a configuration.",
    )
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="as for a run: variant=mhc depth=48")
    names = ", ".join(MACHINES)
    parser.add_argument(
        "--machine",
        default=MEASURED,
        choices=[MEASURED, *MACHINES],
        metavar="NAME",
        help=f"{MEASURED} (this CPU, needs PyTorch), {names}",
    )
    parser.add_argument("--check", action="store_true", help="measure steps on this CPU and print the model's error")
    given = parser.parse_intermixed_args(arguments)
    try:
        if given.check:
            print(error.table(given.overrides), flush=True)
        else:
            config = _config(given.overrides, given.machine)
            print(pages.text(config, _machine(config, given.machine), native_tier(config)), flush=True)
    except ConfigError as refusal:
        from mhc_exp.cli import refuse

        return refuse(refusal)
    return 0


def _config(overrides: Sequence[str], machine: str) -> Config:
    """The configuration, refused where it could run nowhere. Raises ConfigError."""
    from mhc_exp.config.overrides import override_problems
    from mhc_exp.config.words import typed_keys

    if problems := override_problems(list(overrides), multirun=False, config_dirs=[]):
        raise ConfigError(problems)
    config = compose(overrides)
    if config.backend.name == "auto" and machine != MEASURED:
        config = dataclasses.replace(config, backend=dataclasses.replace(config.backend, name="cuda"))
    about = [problem for problem in check(config) if problem.path.startswith(ABOUT_THE_MODEL)]
    if problems := [*about, *idle_problems(config, typed_keys(overrides))]:
        raise ConfigError(problems)
    return resolve_backend(config)


def _machine(config: Config, name: str) -> Machine:
    """The one of that name; the rates of this one at the shapes of `config`."""
    if name != MEASURED:
        return MACHINES[name]
    from mhc_exp.torch.roofs import measured

    return measured(config)


def native_tier(config: Config) -> bool:
    """Whether the C kernels would compute the connections, given a compiler."""
    connection = families.connection(config.variant)
    wanted = config.backend.name == "cpu" and config.backend.kernels in ("auto", "native")
    return wanted and connection is not None and connection.streams in NATIVE_STREAMS
