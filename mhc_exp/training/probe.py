"""What a backend supplies to look into a trained model with streams: changes of its wiring."""

from __future__ import annotations

import contextlib
from typing import Protocol

from mhc_exp.config.machine import PACKAGES
from mhc_exp.config.schema import Config
from mhc_exp.topology.interventions import Intervention
from mhc_exp.training.trainer import Trainer


class Probe(Protocol):
    """One trainer, looked into."""

    def intervened(self, change: Intervention) -> contextlib.AbstractContextManager[None]:
        """The model has `change` inside the block and is as it was after it. Raises ValueError if it does not fit."""
        ...


def make_probe(trainer: Trainer, config: Config) -> Probe:
    """The probe for `trainer`, which `make_trainer(config)` has made."""
    if PACKAGES[config.backend.name] == "torch":
        from mhc_exp.torch.probe import TorchProbe

        return TorchProbe(trainer)  # type: ignore[arg-type]
    from mhc_exp.mlx.probe import MLXProbe

    return MLXProbe(trainer)  # type: ignore[arg-type]
