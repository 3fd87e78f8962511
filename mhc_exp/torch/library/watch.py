"""Connections watched while somebody's loop trains them: rows in a directory, nothing left on the model.

`mhc-exp report DIRECTORY` draws them; mhc_exp.analysis.watched reads them.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mhc_exp.analysis.rows import read_records
from mhc_exp.analysis.sources import WATCH
from mhc_exp.runs.disk import Disk
from mhc_exp.sinks import Row, finite
from mhc_exp.sinks.jsonl import JsonlSink
from mhc_exp.torch.library.sight import Sight
from mhc_exp.torch.library.stacks import stacks

VERSION = 1
Numbers = Mapping[str, float | Tensor]
"""Columns of a row; tensors of one element are read where a row is written, and nowhere else."""


class Watch:
    """Records what every connection of `model` does, every `every` steps, into `directory`.

        watch = Watch(model, "watched/first", every=50)
        for x, y in batches:
            optimizer.zero_grad()
            with watch.step() as row:
                row["train/loss"] = loss = criterion(model(x), y)
                loss.backward()
            optimizer.step()

    The first forward pass inside `step` counts; gradients are read where the block ends. A model has one directory
    with metrics.jsonl (columns of topology.diagnosis.summarise) and layers.jsonl (topology.watched.line), or one in
    it for each of its stacks (library.stacks). Each row is appended with one write; what the disk refuses waits.

    Outputs and gradients are the same bits as without. Between watched steps nothing of a Watch is on the model. A
    model that torch.compile has compiled runs its watched steps without the compiler. Of several processes
    (torch.distributed) the first one writes, about its own batch.

    `step` is the number of the first one. A directory with rows goes on with step > 0, for the same model.
    """

    def __init__(self, model: nn.Module, directory: str | os.PathLike[str], every: int = 50, *, step: int = 0):
        if every < 1:
            raise ValueError(f"every={every}: a step is watched every so many; type 1 or more")
        self.model, self.directory, self.every, self.next = model, Path(directory), every, step
        self.stacks = stacks(model)
        if not self.stacks:
            raise ValueError(
                f"{type(model).__name__} has no connections to watch; inject(model) or inject_mhc(model, ...) puts "
                "them in, or build it from HyperConnection, HyperSequential, MHCSequential"
            )
        self.sights: list[Sight] = []
        """Empty unless a watched step is under way."""
        self._number = step
        self._last: list[Row] = []
        """The newest row of each stack: a row of the same step replaces it and keeps its columns."""
        self._eagerly = contextlib.ExitStack()
        self._writers: list[tuple[JsonlSink, JsonlSink]] = []
        if _first_process():
            self._writers = self._begin()

    # --- a step --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def step(self, number: int | None = None) -> Iterator[dict[str, float | Tensor]]:
        """Around forward and backward pass of step `number` (default: one after the last): what is put into the dict
        is written with what was measured, if this is a step to watch.
        """
        self.begin(number)
        row: dict[str, float | Tensor] = {}
        try:
            yield row
        except BaseException:
            self.cancel()
            raise
        self.end(row)

    def begin(self, number: int | None = None) -> bool:
        """The first half of `step`; whether this one is watched."""
        if self.sights:
            raise RuntimeError(f"step {self._number} is being watched already; end() or cancel() it first")
        self._number = self.next if number is None else number
        self.next = self._number + 1
        if not self._writers or self._number % self.every:
            return False
        taken = [one for stack in self.stacks for one in stack.connections if one.observe is not None]
        if taken:
            raise RuntimeError("another Watch is in the middle of a step of this model; one at a time")
        if "torch._dynamo" in sys.modules:
            self._eagerly.enter_context(torch.compiler.set_stance("force_eager"))
        self.sights = [Sight(stack) for stack in self.stacks]
        return True

    def end(self, row: Numbers | None = None, *, gradient_norm: bool = True) -> None:
        """The second half: `row` and everything measured are written, with the norm of all gradients of the model
        (`train/grad_norm`) unless told otherwise. Nothing happens after a step that is not watched.
        """
        if not self.sights:
            return
        sights = self.sights
        self.cancel()
        measured = [one.measured() if one.seen else None for one in sights]
        if not any(measured):
            raise RuntimeError(
                f"no connection ran in step {self._number}; the forward pass belongs between begin and end of a step"
            )
        known = _numbers(row or {})
        if gradient_norm and any(one.differentiated for one in sights):
            gradients = [one.grad for one in self.model.parameters() if one.grad is not None]
            known["train/grad_norm"] = float(nn.utils.get_total_norm(gradients))
        self._write(self._number, [known | (one.row if one else {}) for one in measured])
        for (_, lines), one in zip(self._writers, measured, strict=True):
            if one:
                lines.log({"step": self._number, **one.line})

    def cancel(self) -> None:
        """Leave the model as it was before `begin`; nothing is written."""
        for one in self.sights:
            one.close()
        self.sights = []
        self._eagerly.close()

    def log(self, step: int, row: Numbers) -> None:
        """Write numbers of your own, such as `val/loss`, beside what was measured at that step."""
        self._write(step, [_numbers(row)] * len(self._writers))

    def close(self) -> None:
        """Everything is on the disk; later steps are not watched."""
        self.cancel()
        for pair in self._writers:
            for writer in pair:
                writer.close("done")
        self._writers = []

    # --- the directory -------------------------------------------------------------------------------------------

    def _begin(self) -> list[tuple[JsonlSink, JsonlSink]]:
        facts = self._facts()
        self._agree(facts["stacks"])
        writers = []
        for place in self._places():
            place.mkdir(parents=True, exist_ok=True)
            pair = JsonlSink(), JsonlSink(file="layers.jsonl")
            for writer in pair:
                writer.open_in(place)
            writers.append(pair)
        Disk().replace_durably(self.directory / WATCH, json.dumps(facts, indent=2).encode() + b"\n")
        return writers

    def _places(self) -> list[Path]:
        """The directory, or one in it for each of several stacks."""
        several = len(self.stacks) > 1
        return [self.directory / stack.name if several else self.directory for stack in self.stacks]

    def _facts(self) -> dict[str, Any]:
        model = getattr(self.model, "_orig_mod", self.model)
        return {
            "watch": VERSION,
            "model": type(model).__name__,
            "every": self.every,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "torch": str(torch.__version__),
            "stacks": [stack.facts() for stack in self.stacks],
        }

    def _agree(self, found: list[dict[str, Any]]) -> None:
        """Raises ValueError if the directory is not free for this watch."""
        if not self.directory.is_dir() or not any(self.directory.iterdir()):
            return
        try:
            before = json.loads((self.directory / WATCH).read_text(encoding="utf-8"))["stacks"]
        except (OSError, ValueError, KeyError, TypeError):
            raise ValueError(
                f"{self.directory} holds other files and no watch; type the name of a new or an empty directory"
            ) from None
        if before != found:
            raise ValueError(f"{self.directory} is the watch of a model with other connections; type another directory")
        written = max((row["step"] for place in self._places() for row in read_records(place).rows[-1:]), default=None)
        if written is not None and self.next == 0:
            raise ValueError(
                f"{self.directory} holds a watch up to step {written}; type another directory, or "
                "Watch(..., step=<the first step>) to go on with a training that was resumed"
            )

    def _write(self, step: int, found: Sequence[Mapping[str, float]]) -> None:
        """A row for each stack; readers keep the last one of a step, so it repeats what that step has already."""
        known = self._last if self._last and self._last[0]["step"] == step else [{} for _ in found]
        self._last = [{**before, "step": step, **row} for before, row in zip(known, found, strict=True)]
        for (rows, _), row in zip(self._writers, self._last, strict=True):
            rows.log(finite(row))


def _numbers(row: Numbers) -> dict[str, float]:
    for name, value in row.items():
        if not isinstance(value, int | float) and not (isinstance(value, Tensor) and value.numel() == 1):
            raise ValueError(f"row[{name!r}] has to be a number or a tensor of one element, got {value!r}")
    return {name: float(value.detach() if isinstance(value, Tensor) else value) for name, value in row.items()}


def _first_process() -> bool:
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0
