"""What is written of a watched step: a line of layers.jsonl from what a backend saw, in float64 numpy.

The columns are those of a run (`diagnosis.per_connection`) and the ones named here. Axes: K connections in order of
depth, N tokens (1 if static), S streams.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mhc_exp.topology import inspection
from mhc_exp.topology.diagnosis import Diagnosis, HistoryDiagnosis, per_connection, six_digits

Line = dict[str, list[float | None]]


def line(
    diagnosis: Diagnosis | HistoryDiagnosis, ran: Sequence[int], count: int, more: Mapping[str, Sequence[float]]
) -> Line:
    """A list of `count` numbers per column, to six digits; None for what is not finite and for connections that did
    not run. `ran` are the numbers of the K connections that `diagnosis` and the columns `more` are about.

    - mix/mean_I_J: entry of H_res from stream J to stream I, mean over tokens;
    - mix/identity_distance: `inspection.identity_distance`;
    - of `more`, history/contribution: what of a new state is mixed history (`share`);
    - of `more`, grad/flow: L2 norm of the gradient of the loss by what a connection hands on (its streams, or state).
    """
    columns: dict[str, Sequence[float] | np.ndarray] = {name: values for name, values in more.items() if len(values)}
    if isinstance(diagnosis, Diagnosis) and np.isfinite(diagnosis.mix).all():
        mean = diagnosis.mix.mean(axis=1, dtype=np.float64)
        columns |= {f"mix/mean_{i}_{j}": mean[:, i, j] for i, j in np.ndindex(*mean.shape[1:])}
        columns["mix/identity_distance"] = inspection.identity_distance(diagnosis.mix)
    measured = per_connection(diagnosis) | {name: list(map(six_digits, values)) for name, values in columns.items()}
    return {name: _spread(values, ran, count) for name, values in measured.items()}


def share(mixed: float, added: float) -> float:
    """What of a new state is mixed history: its norm over the sum of the norms of both summands; nan if both are 0."""
    return mixed / (mixed + added) if mixed + added else float("nan")


def _spread(values: Sequence[float | None], ran: Sequence[int], count: int) -> list[float | None]:
    spread: list[float | None] = [None] * count
    for index, value in zip(ran, values, strict=True):
        spread[index] = value
    return spread
