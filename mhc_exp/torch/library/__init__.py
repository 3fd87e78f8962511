"""Connections for other people's models (docs/library.md): building blocks, and injection into existing models.

`connection.py` is one stream connection, `hyper.py` the modules around it, `history.py` mixing of the last states with
the projections of `projections.py`, `charts.py` constraints as functions. `injection.py` puts streams into an existing
model block by block: `adapters.py` says where the additions of known blocks are, `splitting.py` replaces them;
`history_injection.py` does it with mixing of the last states. `watch.py` records what connections do in somebody's
loop: `sight.py` sees one step of one of the `stacks.py`; `lightning.py` and `transformers.py` are it as callbacks. The
mathematics is that of mhc_exp.torch, unchanged.
"""

from mhc_exp.torch.library.adapters import Adapter, Branch, CannotInject, Residual, Residual2d
from mhc_exp.torch.library.charts import doubly_stochastic, identity_preserving, mixing_matrix, simplex
from mhc_exp.torch.library.connection import StreamConnection
from mhc_exp.torch.library.history import HistoryConnection, MHCSequential
from mhc_exp.torch.library.history_injection import eject_mhc, inject_mhc
from mhc_exp.torch.library.hyper import (
    ExpandStreams,
    HyperConnection,
    HyperConnection2d,
    HyperSequential,
    ReduceStreams,
    expand_streams,
    reduce_streams,
)
from mhc_exp.torch.library.injection import (
    connection_parameters,
    connections,
    eject,
    freeze_body,
    inject,
    is_injected,
    parameter_groups,
    preserves,
)
from mhc_exp.torch.library.watch import Watch

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
    "Residual2d",
    "StreamConnection",
    "Watch",
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
    "parameter_groups",
    "preserves",
    "reduce_streams",
    "simplex",
]
