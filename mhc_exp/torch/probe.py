"""Looking into a trained model in PyTorch. Mirrors mhc_exp/mlx/probe.py; implements mhc_exp.training.probe.Probe."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from mhc_exp.topology.interventions import Intervention
from mhc_exp.torch.interventions import apply, count, rewired
from mhc_exp.torch.trainer import TorchTrainer
from mhc_exp.torch.wiring import Coefficients


class TorchProbe:
    """Interventions on the wiring of `trainer`."""

    def __init__(self, trainer: TorchTrainer):
        self.trainer = trainer

    @contextlib.contextmanager
    def intervened(self, change: Intervention) -> Iterator[None]:
        """The model has `change` inside the block."""
        window = change.window.indices(count(self.trainer.model))

        def at(index: int, coefficients: Coefficients) -> Coefficients:
            return apply(change, coefficients) if index in window else coefficients

        with rewired(self.trainer.model, at):
            yield
