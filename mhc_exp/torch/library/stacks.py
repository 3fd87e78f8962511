"""The stacks of a model: connections that one state runs through, from where it is expanded to where it is reduced.

A product of mixing matrices, and how far back a read reaches, mean something within a stack only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from mhc_exp.topology.families import streams_of
from mhc_exp.torch.library import connection
from mhc_exp.torch.library.history import HistoryConnection, MHCSequential
from mhc_exp.torch.library.hyper import ExpandStreams, HyperSequential
from mhc_exp.torch.library.splitting import MultiStream

Connection = connection.Connection | HistoryConnection
WRAPPERS = ("_orig_mod", "hyper_connections", "history_connection")
"""Parts of the name of a module that tell a reader nothing."""


@dataclass(frozen=True)
class Stack:
    """K connections of one kind in the order in which they run."""

    name: str
    """What their names begin with in the model; the model's class where that is nothing."""
    labels: tuple[str, ...]
    """What tells them apart."""
    connections: tuple[Connection, ...]

    @property
    def kind(self) -> str:
        """`streams` or `history`."""
        return "streams" if isinstance(self.connections[0], connection.Connection) else "history"

    def facts(self) -> dict[str, Any]:
        """What is written about it."""
        first, same = self.connections[0], {"name": self.name, "kind": self.kind, "connections": list(self.labels)}
        if isinstance(first, connection.Connection):
            return {
                **same,
                "variant": first.variant.name,
                "streams": streams_of(first.variant),
                "alpha": first.variant.alpha,
            }
        return {**same, "variant": first.mixing.variant.constraint, "max_history": first.max_history}


def stacks(model: nn.Module) -> list[Stack]:
    """All stacks of `model`, names unique. A stack begins where streams are expanded, where the kind or shape of the
    connections changes, and where their numbers (`layer_index`) begin again.
    """
    found: list[list[tuple[str, Connection]]] = []
    done: set[nn.Module] = set()
    fresh = True
    for name, module in model.named_modules():
        if hasattr(module, "history_hooks"):  # of inject_mhc: numbered in the order in which they run
            injected = [(n, m) for n, m in module.named_modules(prefix=name) if n.endswith(".history_connection")]
            own: list[tuple[str, Connection]] = [(n, m) for n, m in injected if isinstance(m, HistoryConnection)]
            found.append(sorted(own, key=lambda one: _number(one[1])))
            done |= {m for _, m in own}
        if isinstance(module, MultiStream):
            fresh |= hasattr(module, "hyper_expand")
        elif isinstance(module, HyperSequential | MHCSequential):
            fresh = True
        elif isinstance(module, ExpandStreams):
            fresh |= not name.endswith("hyper_expand")
        elif isinstance(module, Connection) and module not in done:
            if fresh or not _follows(module, found[-1][-1][1]):
                found.append([])
            found[-1].append((name, module))
            fresh = False
    return list(_unique(_stack(model, part) for part in found if part))


def _follows(one: Connection, last: Connection) -> bool:
    """Whether a connection can go on where the last one ended."""
    if isinstance(one, connection.Connection) and isinstance(last, connection.Connection):
        return (one.variant, one.width) == (last.variant, last.width) and one.index >= last.index
    if isinstance(one, HistoryConnection) and isinstance(last, HistoryConnection):
        return one.layer_index > last.layer_index
    return False


def _number(one: Connection) -> int:
    return one.index if isinstance(one, connection.Connection) else one.layer_index


def _stack(model: nn.Module, part: list[tuple[str, Connection]]) -> Stack:
    names = [[word for word in name.split(".") if word not in WRAPPERS] for name, _ in part]
    while min(map(len, names)) > 1 and _tells_nothing([words[-1] for words in names]):
        names = [words[:-1] for words in names]
    shared = _shared(names) if len(names) > 1 else max(0, len(names[0]) - 1)
    kept = ".".join(names[0][:shared]) or type(getattr(model, "_orig_mod", model)).__name__
    labels = tuple(".".join(words[shared:]) or str(index) for index, words in enumerate(names))
    return Stack(kept, labels, tuple(one for _, one in part))


def _shared(names: list[list[str]]) -> int:
    """Parts with which all names begin."""
    pairs = list(zip(*names, strict=False))
    return next((place for place, words in enumerate(pairs) if len({*words}) > 1), len(pairs))


def _tells_nothing(words: list[str]) -> bool:
    """Whether a part of the names of connections is the same for all of them."""
    return len({*words}) == 1 and (len(words) > 1 or words[0] == "connection")


def _unique(found: Iterator[Stack]) -> Iterator[Stack]:
    """With a number behind a name that was there already."""
    seen: dict[str, int] = {}
    for stack in found:
        seen[stack.name] = seen.get(stack.name, 0) + 1
        yield stack if seen[stack.name] == 1 else replace(stack, name=f"{stack.name}-{seen[stack.name]}")
