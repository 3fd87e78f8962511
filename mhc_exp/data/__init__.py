"""Datasets, numpy only: `make_task(config)` gives the `Task` that `config.dataset` names.

Every batch is a pure function of (seed, split, step, rank): nothing has to be saved to resume, any number of ranks
sees the same global batch, and both backends are fed the same bytes.
"""

from __future__ import annotations

from mhc_exp.config.schema import Config
from mhc_exp.data.task import Batch, Task

__all__ = ["Batch", "Task", "make_task"]


def make_task(config: Config) -> Task:
    """The dataset of `config`. Raises `ConfigError` naming the key if the data is missing, damaged or too small."""
    match config.dataset.kind:
        case "source_code":
            from mhc_exp.data import source_code as module
        case "text":
            from mhc_exp.data import text as module
        case "corpus":
            from mhc_exp.data import corpora as module
        case "increment" | "noisy_increment":
            from mhc_exp.data import increment as module
        case "pointer_chasing":
            from mhc_exp.data import pointer_chasing as module
        case "permutation":
            from mhc_exp.data import permutation as module
        case "tokens":
            from mhc_exp.data import tokens as module
        case "hub":
            from mhc_exp.data import hub as module
    return module.make(config)
