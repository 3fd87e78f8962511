"""Watching connections in transformers: `Trainer(..., callbacks=[ConnectionsCallback("watched/first")])`."""

from __future__ import annotations

import os
from typing import Any

from transformers import TrainerCallback  # pyright: ignore[reportMissingImports]

from mhc_exp.torch.library.watch import Watch

NAMES = {"loss": "train/loss", "grad_norm": "train/grad_norm", "learning_rate": "train/lr", "eval_loss": "val/loss"}
"""What the Trainer logs -> its column."""


class ConnectionsCallback(TrainerCallback):  # pyright: ignore[reportGeneralTypeIssues]
    """A `Watch` of the model that is trained.

    Steps are `state.global_step`, counted before the update. Gradients are as the Trainer hands them to the optimizer,
    after clipping (`max_grad_norm`); `train/loss` and `train/grad_norm` are what it logs, when it logs.
    """

    def __init__(self, directory: str | os.PathLike[str], every: int = 50):
        self.directory, self.every = directory, every
        self.watch: Watch | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.watch = Watch(model, self.directory, self.every, step=state.global_step)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.watch:
            self.watch.cancel()  # of a step that ended without an update
            self.watch.begin(state.global_step)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.watch:
            self.watch.end(gradient_norm=False)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        known = {NAMES[name]: float(value) for name, value in (logs or {}).items() if name in NAMES}
        if self.watch and known:
            self.watch.log(state.global_step, known)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.watch:
            self.watch.close()
        self.watch = None
