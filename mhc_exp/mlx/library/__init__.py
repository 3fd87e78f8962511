"""Connections for other people's MLX models (docs/library.md): building blocks around any module.

Mirrors mhc_exp/torch/library. `connection.py` is one stream connection, `hyper.py` the modules around it, `history.py`
mixing of the last states with the projections of `projections.py`, `charts.py` constraints as functions, `modules.py`
finds connections and their parameters in a model. The mathematics is that of mhc_exp.mlx, unchanged.
"""

from mhc_exp.mlx.library.charts import doubly_stochastic, identity_preserving, mixing_matrix, simplex
from mhc_exp.mlx.library.connection import StreamConnection
from mhc_exp.mlx.library.history import HistoryConnection, MHCSequential
from mhc_exp.mlx.library.hyper import (
    ExpandStreams,
    HyperConnection,
    HyperConnection2d,
    HyperSequential,
    ReduceStreams,
    expand_streams,
    reduce_streams,
)
from mhc_exp.mlx.library.modules import connection_filter, connection_parameters, connections, freeze_body

__all__ = [
    "ExpandStreams",
    "HistoryConnection",
    "HyperConnection",
    "HyperConnection2d",
    "HyperSequential",
    "MHCSequential",
    "ReduceStreams",
    "StreamConnection",
    "connection_filter",
    "connection_parameters",
    "connections",
    "doubly_stochastic",
    "expand_streams",
    "freeze_body",
    "identity_preserving",
    "mixing_matrix",
    "reduce_streams",
    "simplex",
]
