"""Rules that span several keys, and what this machine can do: everything that is refused before a run begins.

Every message says what was wrong, what is allowed and what to type. Types and ranges of single keys are the schema's.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from mhc_exp.config import machine
from mhc_exp.config.build import ConfigError, Problem, build
from mhc_exp.config.dataset_rules import dataset_problems
from mhc_exp.config.effect import idle_problems
from mhc_exp.config.naming import slug_problem
from mhc_exp.config.schema import Config, PointerChasing
from mhc_exp.config.variant_rules import variant_problems
from mhc_exp.planning.recompute import layers_of, least_needed, obstacle
from mhc_exp.runs.redaction import redact
from mhc_exp.topology import families

NATIVE_STREAMS = range(2, 9)
"""Numbers of streams that the native kernels (mhc_exp/torch/kernels) are written for."""

ABSURD_MEMORY = 50
"""A run that would need this many times the machine's memory is a slip of the keyboard, not an experiment."""


def check(config: Config) -> list[Problem]:
    """Everything wrong with `config` beyond types and ranges; an empty list if it can run here. Touches no file."""
    return [problem for rule in _RULES for problem in rule(config)] or list(_memory(config))


def accept(mapping: dict[str, Any], typed: Collection[str] = ()) -> Config:
    """A composed mapping as a `Config` that can run here, backend resolved; `typed` are the keys that a person set,
    each of which must have an effect. Raises ConfigError with all problems.
    """
    config = build(mapping)
    problems = [*check(config), *idle_problems(config, typed)]
    if problems:
        raise ConfigError(problems)
    return resolve_backend(config)


def resolve_backend(config: Config) -> Config:
    """`config` with a named backend: CUDA, then MLX on an Apple machine, then PyTorch or MLX on the CPU.

    TF32 exists on CUDA only and is switched off elsewhere, so that `backend=auto` on a machine without a GPU is the
    same run as `backend=cpu`. Raises ConfigError if no backend is installed.
    """
    if config.backend.name != "auto":
        return config
    name = _automatic()
    if name is None:
        raise ConfigError([Problem("backend", f"no backend is installed; type: {_pip('torch')} (or: {_pip('mlx')})")])
    backend = dataclasses.replace(config.backend, name=name, tf32=config.backend.tf32 and name == "cuda")
    return dataclasses.replace(config, backend=backend)


def _automatic() -> str | None:
    if machine.installed("torch") and machine.cuda_possible() and machine.cuda_available():
        return "cuda"
    if machine.installed("mlx") and machine.apple_silicon():
        return "mlx"
    return next((name for name in ("cpu", "mlx") if machine.installed(machine.PACKAGES[name])), None)


def _pip(package: str) -> str:
    return f"pip install 'mhc-exp[{package}]'"


def _backend(config: Config) -> Iterator[Problem]:
    try:
        backend = resolve_backend(config).backend
    except ConfigError as error:
        yield from error.problems
        return
    name, package = backend.name, machine.PACKAGES[backend.name]
    if not machine.installed(package):
        yield Problem("backend", f"{name} needs the package {package}, which is not installed; type: {_pip(package)}")
    elif name == "cuda" and not machine.cuda_available():
        yield Problem(
            "backend",
            "cuda: the installed PyTorch sees no CUDA device; type backend=cpu, "
            "or install a CUDA build of PyTorch (https://pytorch.org/get-started)",
        )
    if backend.kernels == "native":
        yield from _native_kernels(config, name)
    if backend.kernels == "compiled":
        yield from _compiled_kernels(config, name)
    if backend.tf32 and name != "cuda":
        yield Problem("backend.tf32", f"TF32 exists on cuda only; with {name} type backend.tf32=false")
    if backend.graphs:
        yield from _graphs(config, name)


def _graphs(config: Config, backend: str) -> Iterator[Problem]:
    if backend != "cuda":
        yield Problem(
            "backend.graphs", f"graphs of kernels exist on cuda only; with {backend} type backend.graphs=false"
        )
    if config.model.dropout:
        yield Problem(
            "backend.graphs",
            "a graph would drop the same units in every step; type model.dropout=0 or backend.graphs=false",
        )
    if config.training.recompute != "none":
        yield Problem(
            "backend.graphs",
            f"a step is recorded without recomputation, got training.recompute={config.training.recompute}; "
            "type training.recompute=none or backend.graphs=false",
        )


def _native_kernels(config: Config, backend: str) -> Iterator[Problem]:
    variant, connection = config.variant, families.connection(config.variant)
    if backend == "mlx":
        yield Problem("backend.kernels", "native is for backend=cpu or cuda, not mlx; type backend.kernels=auto")
    if backend == "cuda" and not machine.installed("triton"):
        yield Problem(
            "backend.kernels",
            "native on cuda needs the package triton, which is not installed; type: pip install triton, "
            "or type backend.kernels=auto",
        )
    if connection is None:
        yield Problem(
            "backend.kernels",
            f"native is for the families streams and looped, and {variant.name} is one of {variant.family}; "
            "type backend.kernels=auto",
        )
    elif connection.streams not in NATIVE_STREAMS:
        yield Problem(
            "backend.kernels",
            f"native is for {NATIVE_STREAMS[0]} to {NATIVE_STREAMS[-1]} streams, not {connection.streams}; "
            f"type backend.kernels=auto or variant.streams={NATIVE_STREAMS[-1]}",
        )


def _compiled_kernels(config: Config, backend: str) -> Iterator[Problem]:
    variant, connection = config.variant, families.connection(config.variant)
    if backend == "mlx":
        yield Problem("backend.kernels", "compiled is for backend=cpu or cuda, not mlx; type backend.kernels=auto")
    if connection is None:
        yield Problem(
            "backend.kernels",
            f"compiled is for the families streams and looped, and {variant.name} is one of {variant.family}; "
            "type backend.kernels=auto",
        )


def _names(config: Config) -> Iterator[Problem]:
    problem = slug_problem(config.name) if config.name is not None else None
    if problem:
        yield Problem("name", problem)
    if config.seed >= 2**63:
        yield Problem("seed", f"must be below 2^63, got {config.seed}")
    root = Path(config.runs_root)
    existing = next((path for path in (root, *root.parents) if os.path.exists(path)), Path())
    if not config.runs_root.strip():
        yield Problem("runs_root", "may not be empty; type runs_root=runs")
    elif config.runs_root.startswith("~"):
        yield Problem("runs_root", f"~ is not expanded here; type runs_root={os.path.expanduser(root)}")
    elif any(len(os.fsencode(part)) > 255 for part in root.parts):
        yield Problem("runs_root", "a part of the path is longer than 255 bytes; type a shorter one")
    elif not existing.is_dir():
        yield Problem("runs_root", f"{str(existing)!r} is a file; type runs_root= and a directory")
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield Problem("runs_root", f"{str(existing)!r} is not writable; type runs_root= and a directory of yours")


def _secrets(config: Config) -> Iterator[Problem]:
    """A value that came from the environment (`${oc.env:...}`) would be written into run.json."""
    for path, value in _texts(dataclasses.asdict(config)):
        if redact(value) != value:
            yield Problem(path, "holds a secret of the environment, which would be recorded; type another value")


def _texts(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _texts(value, f"{path}.{key}" if path else key)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _texts(value, path)
    elif isinstance(node, str):
        yield path, node


def _model(config: Config) -> Iterator[Problem]:
    model = config.model
    if model.width % model.heads:
        closest = min(_divisors(model.width), key=lambda heads: (abs(heads - model.heads), heads))
        nearby = model.heads * max(1, round(model.width / model.heads))
        yield Problem(
            "model.width",
            f"{model.width} is not divisible by model.heads={model.heads}; "
            f"type model.width={nearby} or model.heads={closest}",
        )
    elif model.positions == "rotary" and (model.width // model.heads) % 2:
        yield Problem(
            "model.positions",
            f"rotary needs an even head width, got {model.width}/{model.heads} = {model.width // model.heads}; "
            f"type model.width={model.width + model.heads} or model.positions=learned",
        )


def _budget(config: Config) -> Iterator[Problem]:
    training = config.training
    budgets = {"steps": training.steps, "tokens": training.tokens, "flops": training.flops}
    given = {name: value for name, value in budgets.items() if value is not None}
    if len(given) != 1:
        said = " and ".join(f"training.{name}={value}" for name, value in given.items()) or "none of them"
        keep = list(given)[-1] if given else "steps"
        switches = " ".join(f"training.{name}=null" for name in given if name != keep)
        amount = f"training.{keep}={given.get(keep, 240)}"
        yield Problem(
            "training",
            f"set exactly one of training.steps, training.tokens, training.flops; got {said}; "
            f"type {' '.join(filter(None, (switches, amount)))}",
        )
    elif training.tokens is not None and not isinstance(config.dataset, PointerChasing):
        least = training.batch_size * config.model.seq_len
        if training.tokens < least:
            yield Problem(
                "training.tokens",
                f"{training.tokens} is less than one step of {training.batch_size} x {config.model.seq_len} tokens; "
                f"type training.tokens={least} or more",
            )


def _training(config: Config) -> Iterator[Problem]:
    training, optimizer = config.training, config.optimizer
    if training.batch_size % training.accumulation:
        yield Problem(
            "training.accumulation",
            f"{training.accumulation} does not divide training.batch_size={training.batch_size}; "
            f"type training.accumulation= and one of {', '.join(map(str, _divisors(training.batch_size)))}",
        )
    if optimizer.schedule == "wsd" and optimizer.warmup + optimizer.cooldown > 1:
        yield Problem(
            "optimizer.cooldown",
            f"warm-up and cool-down are shares of one run: {optimizer.warmup:g} + {optimizer.cooldown:g} is above 1; "
            f"type optimizer.cooldown={1 - optimizer.warmup:g} or less",
        )


def _recompute(config: Config) -> Iterator[Problem]:
    training = config.training
    if training.recompute in ("block", "connections") and (reason := obstacle(_resolved(config), training.recompute)):
        yield Problem("training.recompute", f"{training.recompute}: {reason}; type training.recompute=auto")
    layers = layers_of(config)
    if training.recompute_length is not None and training.recompute == "none":
        yield Problem(
            "training.recompute_length",
            f"{training.recompute_length} is the length of a recomputed block, and training.recompute=none; "
            "type training.recompute=block or training.recompute_length=null",
        )
    elif training.recompute_length is not None and training.recompute_length > layers:
        yield Problem(
            "training.recompute_length",
            f"{training.recompute_length} is more than the {layers} connections of this model; "
            f"type training.recompute_length= and 1 to {layers}, or null",
        )


def _resolved(config: Config) -> Config:
    """With a named backend, or as it is where none is installed, which another rule says."""
    try:
        return resolve_backend(config)
    except ConfigError:
        return config


def _divisors(number: int) -> list[int]:
    """Divisors of `number` up to 1024, which is enough to propose one."""
    return [candidate for candidate in range(1, min(number, 1024) + 1) if number % candidate == 0]


def _tracking(config: Config) -> Iterator[Problem]:
    tracking = config.tracking
    if not tracking.project.strip():
        yield Problem("tracking.project", "may not be empty; type tracking.project=mhc-exp")
    if tracking.wandb in ("online", "offline") and not machine.installed("wandb"):
        yield Problem(
            "tracking.wandb",
            f"{tracking.wandb} needs the package wandb; type tracking=local, or: {_pip('wandb')}",
        )
    if tracking.tensorboard and not machine.installed("tensorboard"):
        yield Problem(
            "tracking.tensorboard",
            f"needs the package tensorboard; type tracking.tensorboard=false, or: {_pip('tensorboard')}",
        )
    if config.launch.mode == "inline" and config.launch.timeout is not None:
        yield Problem("launch.timeout", "only a child process can be stopped from outside; type launch=process")


def _memory(config: Config) -> Iterator[Problem]:
    """Of a configuration that is right otherwise."""
    memory, need = machine.memory_bytes(), least_needed(config)
    if memory is not None and need > ABSURD_MEMORY * memory:
        yield Problem(
            "model",
            f"needs very roughly {need / 2**30:,.0f} GiB and this machine has {memory / 2**30:,.0f}; "
            "type a smaller depth, model.width, model.seq_len or training.batch_size",
        )


_RULES = (
    _backend,
    _names,
    _secrets,
    variant_problems,
    _model,
    dataset_problems,
    _budget,
    _training,
    _recompute,
    _tracking,
)
