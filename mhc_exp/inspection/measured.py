"""Everything that `mhc-exp inspect` shows of a checkpoint, measured on the diagnosis batch of its run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mhc_exp.analysis.sources import NothingThere
from mhc_exp.inspection.opened import Opened
from mhc_exp.topology import families
from mhc_exp.topology import inspection as numbers
from mhc_exp.topology.diagnosis import Diagnosis, per_connection
from mhc_exp.topology.learning import tangent_share
from mhc_exp.training.evaluation import diagnosis_batch

Lines = dict[str, np.ndarray]
"""One number per connection [K] under each name."""


@dataclass(frozen=True)
class Measured:
    """K connections in order of depth, S streams."""

    title: str
    device: str
    given: str
    """What it was measured on, such as `512 held-out tokens`."""
    wrapped: list[str]
    """What each connection wraps: `attention 0`, `mlp 0`, ...; `block 0`, ... at block sites; `loop 0`, ..."""
    mix: np.ndarray
    """[K, S, S] H_res, mean over tokens."""
    cosine: np.ndarray
    """[K, S, S] between the streams after each connection, mean over tokens."""
    lines: Lines
    """Columns of `topology.diagnosis.per_connection`, and those of `measure`."""
    scales: Lines
    """Learned scales (alpha) by part."""
    initial_scale: float | None
    """Of all of them before training, if known."""
    gradients: Lines
    """Norms of the gradient by part."""
    tangent_share: np.ndarray | None
    """[K] share of dL/dH_res along the doubly stochastic matrices; None if H_res is fixed."""


def measure(opened: Opened) -> Measured:
    """Diagnose the checkpoint, and the untrained model for comparison. Raises NothingThere."""
    own, batch = opened.connection, diagnosis_batch(opened.batches)
    initial = opened.trainer.diagnose(batch)  # the trainer still holds the initial weights
    opened.load()
    found = opened.trainer.diagnose(batch)
    assert isinstance(initial, Diagnosis)  # who calls has asked for the family
    assert isinstance(found, Diagnosis)
    if not all(np.isfinite(part).all() for part in (found.mix, found.read, found.write, found.gram)):
        raise NothingThere(not_finite(opened, "streams"))
    return collected(
        found,
        initial,
        title=opened.title(),
        device=opened.trainer.device,
        given=f"{batch.inputs.size} held-out tokens",
        wrapped=families.wrapped(opened.config.variant, opened.config.depth),
        initial_scale=own.alpha,
    )


def collected(
    found: Diagnosis,
    initial: Diagnosis | None = None,
    *,
    title: str,
    device: str,
    given: str,
    wrapped: list[str],
    initial_scale: float | None = None,
) -> Measured:
    """What there is to show of `found`; nan where nothing was measured. `initial` is the untrained model, if known."""
    unknown = np.full(len(found.mix), np.nan)
    lines = dict.fromkeys(("streams/cosine", "streams/dominant_share"), unknown)
    lines |= {name: np.array(values, float) for name, values in per_connection(found).items()}
    lines |= {
        "mix/identity_distance": numbers.identity_distance(found.mix),
        "mix/moved": unknown if initial is None else numbers.distance(found.mix, initial.mix),
        "mix/residual": numbers.constraint_residual(found.mix),
        "mix/spread": numbers.token_spread(found.mix),
        "read/spread": numbers.token_spread(found.read),
        "write/spread": numbers.token_spread(found.write),
    }
    return Measured(
        title=title,
        device=device,
        given=given,
        wrapped=wrapped,
        mix=found.mix.mean(axis=1, dtype=np.float64),
        cosine=numbers.cosine_matrices(found.gram),
        lines=lines,
        scales=dict(found.scales),
        initial_scale=initial_scale,
        gradients=dict(found.gradients),
        tangent_share=None if found.mix_gradient is None else tangent_share(found.mix_gradient),
    )


def not_finite(opened: Opened, what: str) -> str:
    """Why the checkpoint cannot be measured, and what to type."""
    steps = ", ".join(map(str, opened.run.checkpoints.steps()))
    where = f"the {what} of {opened.title()} are not finite on the held-out batch"
    return f"{where}; type --checkpoint with an earlier step: {steps}"
