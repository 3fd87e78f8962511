"""Connections as Keras 3 layers, on TensorFlow, JAX and PyTorch through keras.ops alone (docs/library.md).

`framework.py` is where Keras is imported; `charts.py`, `sinkhorn.py`, `rotations.py` and `streams.py` are the
mathematics, mirroring mhc_exp.torch; `hyper.py` and `history.py` are the layers, `branches.py` what they wrap.
"""

from mhc_exp.keras.history import HistoryConnection
from mhc_exp.keras.hyper import (
    ExpandStreams,
    HyperConnection,
    HyperSequential,
    ReduceStreams,
    expand_streams,
    reduce_streams,
)

__all__ = [
    "ExpandStreams",
    "HistoryConnection",
    "HyperConnection",
    "HyperSequential",
    "ReduceStreams",
    "expand_streams",
    "reduce_streams",
]
