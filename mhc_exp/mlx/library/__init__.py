"""Connections for other people's MLX models (docs/library.md): building blocks, and injection into existing models.

Mirrors mhc_exp/torch/library. `connection.py` is one stream connection, `hyper.py` the modules around it, `history.py`
mixing of the last states with the projections of `projections.py`, `charts.py` constraints as functions, `modules.py`
finds connections and their parameters in a model. `injection.py` puts streams into an existing model block by block:
`adapters.py` says where the additions of known blocks are, `splitting.py` replaces them. `history_injection.py` mixes
the last states into modules of an existing model. The mathematics is that of mhc_exp.mlx, unchanged.
"""

from mhc_exp.mlx.library.adapters import Adapter, Branch, CannotInject, Residual
from mhc_exp.mlx.library.charts import doubly_stochastic, identity_preserving, mixing_matrix, simplex
from mhc_exp.mlx.library.connection import StreamConnection
from mhc_exp.mlx.library.history import HistoryConnection, MHCSequential
from mhc_exp.mlx.library.history_injection import eject_mhc, inject_mhc
from mhc_exp.mlx.library.hyper import (
    ExpandStreams,
    HyperConnection,
    HyperConnection2d,
    HyperSequential,
    ReduceStreams,
    expand_streams,
    reduce_streams,
)
from mhc_exp.mlx.library.injection import eject, inject, is_injected, preserves
from mhc_exp.mlx.library.modules import connection_filter, connection_parameters, connections, freeze_body

__all__ = [
    "Adapter",
    "Branch",
    "CannotInject",
    "ExpandStreams",
    "HistoryConnection",
    "HyperConnection",
    "HyperConnection2d",
    "HyperSequential",
    "MHCSequential",
    "ReduceStreams",
    "Residual",
    "StreamConnection",
    "connection_filter",
    "connection_parameters",
    "connections",
    "doubly_stochastic",
    "eject",
    "eject_mhc",
    "expand_streams",
    "freeze_body",
    "identity_preserving",
    "inject",
    "inject_mhc",
    "is_injected",
    "mixing_matrix",
    "preserves",
    "reduce_streams",
    "simplex",
]
