"""Held-out measurements: the fixed batches of a run, and the `val/` columns computed from them."""

from __future__ import annotations

import math

import numpy as np

from mhc_exp.config.schema import Config
from mhc_exp.data.task import Batch, Task
from mhc_exp.training.trainer import Evaluation

DIAGNOSIS_TOKENS = 512
"""Tokens of the diagnosis batch, at most: gains are per-token quantities whose maximum settles within a few hundred."""


def held_out(config: Config, task: Task) -> list[Batch]:
    """`training.eval_batches` fixed batches, cut into the microbatches that training itself fits into memory."""
    batches = task.validation(config.training.eval_batches, config.training.batch_size)
    return [part for batch in batches for part in _split(batch, config.training.accumulation)]


def diagnosis_batch(batches: list[Batch]) -> Batch:
    """The first held-out sequences of as many batches as it takes: DIAGNOSIS_TOKENS tokens at most, or one sequence."""
    rows = max(1, DIAGNOSIS_TOKENS // batches[0].inputs.shape[1])
    joined = Batch(*map(np.concatenate, zip(*batches[:rows], strict=True)))
    return _rows(joined, 0, rows)


def columns(evaluation: Evaluation, task: Task) -> dict[str, float]:
    """`val/` columns: nats per supervised token, their excess over the floor, accuracy, bits per byte of text."""
    row = {"val/loss": evaluation.loss, "val/accuracy": evaluation.accuracy}
    if task.floor is not None:
        row["val/excess"] = evaluation.loss - task.floor
    if task.bytes_per_token is not None:
        row["val/bits_per_byte"] = evaluation.loss / math.log(2.0) / task.bytes_per_token
    return row


def _split(batch: Batch, parts: int) -> list[Batch]:
    size = -(-len(batch.inputs) // parts)
    return [_rows(batch, start, start + size) for start in range(0, len(batch.inputs), size)]


def _rows(batch: Batch, start: int, stop: int) -> Batch:
    return Batch(batch.inputs[start:stop], batch.targets[start:stop], batch.mask[start:stop])
