"""Watching connections in Lightning: `Trainer(callbacks=[ConnectionsCallback("watched/first")])`. Needs lightning 2."""

from __future__ import annotations

import os
from typing import Any

from lightning.pytorch import Callback  # pyright: ignore[reportMissingImports]
from torch import Tensor

from mhc_exp.torch.library.watch import Watch


class ConnectionsCallback(Callback):
    """A `Watch` of the module that is fitted; `train/loss` is what Lightning differentiates.

    Steps are `trainer.global_step`, counted before the update; gradients are as Lightning hands them to the optimizer,
    unscaled and before clipping. What the module logs under a name with a slash (`val/loss`) is written as well.
    """

    def __init__(self, directory: str | os.PathLike[str], every: int = 50):
        self.directory, self.every = directory, every
        self.watch: Watch | None = None
        self._loss: Tensor | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.watch = Watch(pl_module, self.directory, self.every, step=trainer.global_step)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.watch and not self.watch.sights and self.watch.next <= trainer.global_step:
            self._loss = None
            self.watch.begin(trainer.global_step)

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        if self.watch and self.watch.sights:  # of an accumulated batch, every part comes with its share
            self._loss = loss.detach() + (0 if self._loss is None else self._loss)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if self.watch:
            self.watch.end({} if self._loss is None else {"train/loss": self._loss})

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if self.watch and not trainer.sanity_checking:
            found = {name: value for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
            if found:
                self.watch.log(trainer.global_step, found)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self.watch:
            self.watch.close()
        self.watch = None
