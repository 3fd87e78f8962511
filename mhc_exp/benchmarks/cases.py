"""The models that are timed: named wirings, their tiers, and a trainer with one batch for each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mhc_exp.benchmarks.agreement import agree
from mhc_exp.benchmarks.result import Options, Unsuitable
from mhc_exp.config import vocabulary
from mhc_exp.config.schema import Config
from mhc_exp.config.spelling import suggest
from mhc_exp.data.task import Batch
from mhc_exp.training.trainer import Trainer

WIRINGS = {
    "mhc": ("variant=mhc",),
    "mhc static": ("variant=mhc", "variant.coefficients=static"),
    "identity_hc": ("variant=identity_hc",),
    "hc": ("variant=hc",),
    "deepseek_v4": ("variant=deepseek_v4",),
}
"""What is timed by default -> overrides."""
DEEP = ("mhc",)
"""What the suites of deep models measure by default, beside the baseline."""
BASELINE = ("baseline", "eager")
"""The model that ratios of whole steps are to."""
LEARNING_RATE = 1e-3
TOLERANCE = 1e-3
"""Largest difference between gradients of two tiers of a whole model in float32: blocks amplify rounding."""
WIDE, TINY = 256, 16
"""From width WIDE on sequences have 128 tokens; TINY is the width of --quick."""

Case = TypeVar("Case")
Key = tuple[str, str]
"""(wiring, tier)."""


@dataclass
class Model:
    """A trainer and the batch it steps on."""

    trainer: Trainer
    batch: Batch
    steps: int = 0

    def step(self) -> None:
        """One update, and wait for it."""
        self.steps += 1
        self.trainer.step(self.steps, self.batch, LEARNING_RATE)
        self.trainer.fetch()


def overrides(wiring: str) -> tuple[str, ...]:
    """The words of a command line for `wiring`. Raises Unsuitable if there is none of that name."""
    if wiring in WIRINGS:
        return WIRINGS[wiring]
    known = vocabulary.options("variant")
    if wiring not in known:
        hint = suggest(wiring, [*WIRINGS, *known])
        raise Unsuitable(f"no wiring {wiring!r}{hint}; allowed are {', '.join(map(repr, WIRINGS))} and every variant")
    return (f"variant={wiring}",)


def words(key: Key, options: Options, depth: int, width: int) -> list[str]:
    """The command line of a model."""
    batch, time = batch_shape(options, width)
    sizes = [f"depth={depth}", f"model.width={width}", f"model.seq_len={time}", f"training.batch_size={batch}"]
    task = ["dataset=pointer_chasing"] if options.quick else []
    return [*overrides(key[0]), *on(options, key[1]), *sizes, *task]


def batch_shape(options: Options, width: int) -> tuple[int, int]:
    """Sequences and tokens of each."""
    return (2, 32) if options.quick else (16, 128 if width >= WIDE else 64)


def batch_text(options: Options, width: int) -> str:
    """The same for people."""
    return "{} sequences of {} tokens".format(*batch_shape(options, width))


def on(options: Options, tier: str) -> list[str]:
    """The words that choose device, threads and tier."""
    machine = [f"backend={options.backend}", f"backend.threads={options.threads}", "tracking=local"]
    return [*machine, f"backend.kernels={tier}", *(["backend.tf32=false"] if options.backend != "cuda" else [])]


def configuration(command: Sequence[str]) -> Config | str:
    """What the words say, or why it cannot run here."""
    from mhc_exp.config.build import ConfigError
    from mhc_exp.config.checks import accept
    from mhc_exp.config.compose import compose_mapping

    try:
        return accept(compose_mapping(command)[0])
    except ConfigError as error:
        return "; ".join(map(str, error.problems))


def make(key: Key, options: Options, depth: int, width: int) -> Model | str:
    """The model, or why there is none."""
    from mhc_exp.data import make_task
    from mhc_exp.training.backends import BackendMissing, make_trainer

    config = configuration(words(key, options, depth, width))
    if isinstance(config, str):
        return config
    task = make_task(config)
    try:
        trainer = make_trainer(config, task.vocab_size)
    except BackendMissing as reason:
        return str(reason)
    return Model(trainer, task.batch(0, config.training.batch_size))


def built(make: Callable[[Config], Case], config: Config | str) -> Case | str:
    """What `make` makes of a configuration in PyTorch, or why it cannot be had."""
    from mhc_exp.torch.kernels.build import Unavailable

    if isinstance(config, str):
        return config
    try:
        return make(config)
    except Unavailable as reason:
        return str(reason)


def keys(wirings: Sequence[str], tiers: Sequence[str]) -> list[Key]:
    """The baseline, then every wiring in every tier."""
    return [BASELINE, *(key for key in itertools.product(wirings, tiers) if key[0] != BASELINE[0])]


def unmeasured(what: str, why: str) -> str:
    """The note on something that is not in the table."""
    return f"not measured: {what}: {why}"


@dataclass(frozen=True)
class Field:
    """Models of one size, every tier of a wiring computing the same."""

    models: dict[Key, Model]
    differences: dict[Key, float]
    """Between a model and the eager one of its wiring: all gradients of the loss on the same batch."""
    notes: list[str]
    """What cannot be measured here, and why."""


def field_of(wanted: Sequence[Key], options: Options, depth: int, width: int) -> Field:
    """All models of one size that can be had here. Raises Disagreement, and Unsuitable if an eager one cannot."""
    made = {key: make(key, options, depth, width) for key in wanted}
    for key, why in made.items():
        if isinstance(why, str) and key[1] == "eager":
            raise Unsuitable(f"{key[0]} at depth {depth}, width {width}: {why}")
    models = {key: model for key, model in made.items() if isinstance(model, Model)}
    notes = [unmeasured(" ".join(key), why) for key, why in made.items() if isinstance(why, str)]
    differences = {}
    for key in models:
        if key[1] == "eager":
            continue
        eager = models.get((key[0], "eager")) or make((key[0], "eager"), options, depth, width)
        assert isinstance(eager, Model), eager
        found, expected = (model.trainer.gradients(model.batch) for model in (models[key], eager))
        differences[key] = agree(f"{' '.join(key)}, depth {depth}, width {width}", found, expected, TOLERANCE)
    return Field(models, differences, notes)
