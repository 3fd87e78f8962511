"""What a backend reports about its wiring on a batch, and the columns of rows and of layers.jsonl made from it.

Axes: K connections in order of depth, N tokens (1 if static), S streams. Rows have one number for the whole stack, a
line of layers.jsonl a list of K numbers per column. Gains are defined in topology/gains.py, gradients and scales in
topology/learning.py, reads of earlier outputs in topology/history/reads.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mhc_exp.topology import gains, learning
from mhc_exp.topology.history import reads
from mhc_exp.topology.history.reads import Read

QUANTILES = ("min", "q25", "median", "q75", "max")
Columns = dict[str, np.ndarray | list[float]]
"""[K] numbers by name."""


@dataclass(frozen=True)
class Diagnosis:
    """A wiring with streams. Everything float32 or float64 on the host."""

    mix: np.ndarray
    """[K, N, S, S] H_res as applied to column-stacked streams (N = 1 if static)."""
    read: np.ndarray
    """[K, N, S] H_pre."""
    write: np.ndarray
    """[K, N, S] H_post."""
    gram: np.ndarray
    """[K, N, S, S] inner products of the streams after each connection, up to a factor per token."""
    aligned: bool = True
    """Whether the streams hold the same channels, so that a cosine between two means something; segments do not."""
    scales: Mapping[str, np.ndarray] = field(default_factory=dict)
    """[K] learned scales of the dynamic coefficients (alpha) by part."""
    gradients: Mapping[str, np.ndarray] = field(default_factory=dict)
    """[K] norms of the gradient of the mean loss on the batch by part."""
    mix_gradient: np.ndarray | None = None
    """[K, N, S, S] dL/dH_res of that loss; None where H_res is fixed, and for other kinds of connections."""


@dataclass(frozen=True)
class HistoryDiagnosis:
    """A wiring that reads earlier outputs. K reads in order of depth."""

    reads: Sequence[Read]
    """Where each read is, and where its sources were made."""
    weights: Sequence[np.ndarray]
    """[W, sources, N] of each read: W ways or heads, sources in the order of `reads`."""
    gradients: Mapping[str, np.ndarray] = field(default_factory=dict)
    """[K] norms of the gradient of the mean loss on the batch, part `read`; nan for a read without parameters."""


def summarise(diagnosis: Diagnosis | HistoryDiagnosis) -> dict[str, float]:
    """The `gain/`, `streams/`, `mix/`, `alpha/`, `grad/` and `history/` columns of one row.

    Columns whose input is not finite are left out. A value may still be infinite (a product that overflows, a column
    sum of zero): the loop names it in the row.

    - streams/cosine: `gains.mean_cosine` after the connections, absent for segments, which hold different channels;
    - streams/effective, streams/effective_write: `gains.effective` of H_pre and of H_post;
    - streams/dominant_share: share of the longest stream in the sum of the L2 norms of all, mean over tokens and
      connections (1/S: all equal, 1: one stream has everything); streams/dominant_share_max: at the worst connection;
    - alpha/{read,write,mix}: mean size over connections of the learned scales of the dynamic coefficients;
    - grad/{read,write,mix,scale,router}: L2 norm over all connections of the gradient of `learning.gradient_norms`;
    - grad/tangent_share: `learning.tangent_share` of all dL/dH_res at once;
    - history/{entropy,mean_distance,largest}: of `history.reads.measures`, mean over the reads with several sources.
    """
    columns = _stream_columns(diagnosis) if isinstance(diagnosis, Diagnosis) else _history_columns(diagnosis)
    totals = {f"grad/{part}": learning.total(norms) for part, norms in diagnosis.gradients.items()}
    return columns | {name: value for name, value in totals.items() if np.isfinite(value)}


def _stream_columns(diagnosis: Diagnosis) -> dict[str, float]:
    columns: dict[str, float] = {}
    if np.isfinite(diagnosis.mix).all():
        columns |= gains.matrix_gains(diagnosis.mix.astype(np.float64))
    if np.isfinite(diagnosis.gram).all():
        if diagnosis.aligned:
            columns["streams/cosine"] = gains.mean_cosine(diagnosis.gram)
        share = gains.dominant_share(gains.stream_norms(diagnosis.gram))
        columns |= {"streams/dominant_share": float(share.mean()), "streams/dominant_share_max": float(share.max())}
    for name, weights in (("streams/effective", diagnosis.read), ("streams/effective_write", diagnosis.write)):
        if np.isfinite(weights).all():
            columns[name] = gains.effective(weights)
    for part, scales in diagnosis.scales.items():
        if np.isfinite(scales).all():
            columns[f"alpha/{part}"] = float(np.abs(scales).mean())
    if diagnosis.mix_gradient is not None and np.isfinite(diagnosis.mix_gradient).all():
        share = float(learning.tangent_share(diagnosis.mix_gradient[None])[0])
        columns |= {} if np.isnan(share) else {"grad/tangent_share": share}
    return columns


def _history_columns(diagnosis: HistoryDiagnosis) -> dict[str, float]:
    measured = reads.measures(diagnosis.reads, diagnosis.weights)
    several = np.array([len(one.sources) > 1 for one in diagnosis.reads])
    return {
        f"history/{name}": float(values[several].mean())
        for name, values in measured.items()
        if several.any() and np.isfinite(values[several]).all()
    }


def per_connection(diagnosis: Diagnosis | HistoryDiagnosis) -> dict[str, list[float | None]]:
    """One line of layers.jsonl: a list of K numbers per column, in order of depth, to six digits; None: not finite.

    With streams:

    - mix/sigma_1 ... mix/sigma_S: singular values of H_res, largest first, mean over tokens;
    - mix/entry_{min,q25,median,q75,max}: distribution of the S x S entries of H_res over entries and tokens;
    - mix/diagonal: mean diagonal entry;
    - gain/{forward,backward}_amax: largest row / column sum of this H_res, mean over tokens;
    - gain/composite_{forward,backward}: the same of the product from this connection to the end of the network;
    - streams/cosine, streams/dominant_share, streams/effective, streams/effective_write: as in a row, after and at this
      connection;
    - read/mean, write/mean: mean entry of H_pre and of H_post; read/dominant, write/dominant: share of the largest;
    - alpha/{read,write,mix}: learned scale of the dynamic coefficients, with its sign (`learning.scales`);
    - grad/{read,write,mix,scale,router}: `learning.gradient_norms`;
    - grad/tangent_share: share of dL/dH_res that is tangent to the doubly stochastic matrices.

    With a history, a connection being a read:

    - history/entropy, history/mean_distance, history/largest: `history.reads.measures`;
    - history/weight_P: weight of the source that was made after P sublayers (0: the embedding), mean over ways and
      tokens; None where the read has no such source;
    - grad/read: norm of the gradient of all parameters of this read.
    """
    columns = _stream_lines(diagnosis) if isinstance(diagnosis, Diagnosis) else _history_lines(diagnosis)
    columns |= {f"grad/{part}": norms for part, norms in diagnosis.gradients.items()}
    return {name: [six_digits(value) for value in values] for name, values in columns.items()}


def _stream_lines(diagnosis: Diagnosis) -> Columns:
    columns = _matrix_lines(diagnosis.mix.astype(np.float64)) if np.isfinite(diagnosis.mix).all() else {}
    if np.isfinite(diagnosis.gram).all():
        if diagnosis.aligned:
            columns["streams/cosine"] = [gains.mean_cosine(gram) for gram in diagnosis.gram]
        columns["streams/dominant_share"] = gains.dominant_share(gains.stream_norms(diagnosis.gram))
    for side, weights in (("read", diagnosis.read), ("write", diagnosis.write)):
        if np.isfinite(weights).all():
            name = "streams/effective" if side == "read" else "streams/effective_write"
            columns[name] = [gains.effective(one) for one in weights]
            columns[f"{side}/mean"] = weights.mean(axis=(-2, -1), dtype=np.float64)
            columns[f"{side}/dominant"] = gains.dominant_share(weights)
    columns |= {f"alpha/{part}": scales for part, scales in diagnosis.scales.items()}
    if diagnosis.mix_gradient is not None:
        columns["grad/tangent_share"] = learning.tangent_share(diagnosis.mix_gradient)
    return columns


def _matrix_lines(mix: np.ndarray) -> Columns:
    connections, _, streams, _ = mix.shape
    singular = np.linalg.svd(mix, compute_uv=False).mean(axis=1)
    columns: Columns = {f"mix/sigma_{i + 1}": singular[:, i] for i in range(streams)}
    quantiles = np.quantile(mix.reshape(connections, -1), [0, 0.25, 0.5, 0.75, 1], axis=1)
    columns |= {f"mix/entry_{name}": line for name, line in zip(QUANTILES, quantiles, strict=True)}
    columns["mix/diagonal"] = np.diagonal(mix, axis1=-2, axis2=-1).mean(axis=(-2, -1))
    with np.errstate(over="ignore", invalid="ignore"):
        composite = np.stack([gains.amax(product) for product in gains.suffix_products(mix)][::-1], axis=1)
    single = np.stack([gains.amax(matrices) for matrices in mix], axis=1)
    columns |= {"gain/forward_amax": single[0], "gain/backward_amax": single[1]}
    return columns | {"gain/composite_forward": composite[0], "gain/composite_backward": composite[1]}


def _history_lines(diagnosis: HistoryDiagnosis) -> Columns:
    measured = reads.measures(diagnosis.reads, diagnosis.weights)
    columns: Columns = {f"history/{name}": values for name, values in measured.items()}
    table = reads.table(diagnosis.reads, diagnosis.weights)
    made = np.flatnonzero(~np.isnan(table).all(axis=0))
    return columns | {f"history/weight_{place}": table[:, place] for place in made}


def six_digits(value: float) -> float | None:
    """As a line of layers.jsonl has it; None if it is not finite."""
    return float(f"{value:.6g}") if np.isfinite(value) else None
