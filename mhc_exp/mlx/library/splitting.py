"""An MLX block whose additions are replaced by connections, without touching its code.

Does what torch/library/splitting.py does. MLX has no hooks: the class of the block is replaced by a subclass of the
same name that takes the streams, hands zeros to the original code and returns the streams. Where that code asks for a
submodule at which a branch begins or ends, it gets one that reads from and writes to the streams around the call. The
submodules stay what they are, so they can be quantized, sharded, or given adapters of low rank, before and after.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx import nn

from mhc_exp.mlx.library.adapters import Adapter, Branch, CannotInject, why_not_called
from mhc_exp.mlx.library.connection import Connection, Entered
from mhc_exp.mlx.library.hyper import ExpandStreams, ReduceStreams

PARTS = ("hyper_connections", "hyper_expand", "hyper_reduce")
"""Submodules that a split block has in addition."""


@dataclass(frozen=True)
class Seams:
    """Where the branches of a block are: connections by number."""

    state: str
    """Name of the block's first argument."""
    begins: Mapping[str, int]
    ends: Mapping[str, frozenset[int]]
    """A submodule may end more than one branch."""

    def leads_to(self, path: str) -> bool:
        """Whether a branch begins or ends at this submodule or inside of it."""
        return any(name == path or name.startswith(f"{path}.") for name in (*self.begins, *self.ends))


class Call:
    """What one call of a block knows: its streams, and which connection has read and waits to write."""

    def __init__(self, seams: Seams, connections: Sequence[Connection], streams: mx.array):
        self.seams, self.connections, self.streams = seams, connections, streams
        self.reading: tuple[int, Entered] | None = None
        self.written = 0

    def read(self, index: int) -> mx.array:
        u, entered = self.connections[index].read(self.streams)
        self.reading = index, entered
        return u

    def write(self, y: mx.array) -> None:
        assert self.reading is not None
        index, entered = self.reading
        self.streams = self.connections[index].write(entered, y)
        self.reading, self.written = None, self.written + 1

    def submodule(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a submodule: where a branch begins, with what the connection reads; where one ends, zeros come back."""
        if path in self.seams.begins:
            u = self.read(self.seams.begins[path])
            first = None if args else next(iter(kwargs))
            args, kwargs = ((u, *args[1:]), kwargs) if args else ((), {**kwargs, first: u})  # type: ignore[dict-item]
        output = module(*args, **kwargs)
        if self.reading is None or self.reading[0] not in self.seams.ends.get(path, ()):
            return output
        y, *rest = output if isinstance(output, tuple) else (output,)
        self.write(y)
        return (mx.zeros_like(y), *rest) if isinstance(output, tuple) else mx.zeros_like(y)


class Watched:
    """A submodule as the code of a split block sees it during a call."""

    def __init__(self, call: Call, path: str, module: nn.Module):
        self.call, self.path, self.module = call, path, module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call.submodule(self.path, self.module, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return watched(self.call, f"{self.path}.{name}", getattr(self.module, name))


def watched(call: Call, path: str, found: Any) -> Any:
    return Watched(call, path, found) if isinstance(found, nn.Module) and call.seams.leads_to(path) else found


class MultiStream:
    """What a split block is, besides its own class."""

    get: Callable[..., Any]
    items: Callable[..., Any]
    hyper_seams: Seams
    hyper_call: Call | None
    """Of the call that is running; nothing is kept after it."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The original code, with streams [*, S, C] in place of the state (the first block: [*, C])."""
        seams, kept = self.hyper_seams, self.get("hyper_connections")
        state = args[0] if args else kwargs[seams.state]
        expand, reduce = (self.get(name) for name in PARTS[1:])
        self.hyper_call = call = Call(seams, kept, state if expand is None else expand(state))
        try:
            output = self._around(call, args, kwargs)
        finally:
            self.hyper_call = None
        streams = call.streams if reduce is None else reduce(call.streams)
        return (streams, *output[1:]) if isinstance(output, tuple) else streams

    def _around(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        base = type(self).__mro__[2]
        if reason := why_not_called(base):
            raise CannotInject(reason)
        seams, shape = call.seams, call.streams.shape
        whole = not seams.begins
        carrier = call.read(0) if whole else mx.zeros((*shape[:-2], call.connections[0].width), call.streams.dtype)
        args, kwargs = ((carrier, *args[1:]), kwargs) if args else (args, {**kwargs, seams.state: carrier})
        output = super().__call__(*args, **kwargs)  # type: ignore[misc]
        if whole:
            call.write(output[0] if isinstance(output, tuple) else output)
        if call.written != len(call.connections):
            raise CannotInject(
                f"{base.__name__} ran {call.written} of its {len(call.connections)} branches: its code does not call "
                "the submodules that its adapter names, one after the other"
            )
        return output

    def __getattr__(self, name: str) -> Any:
        found = super().__getattr__(name)  # type: ignore[misc]
        call = self.__dict__.get("hyper_call")
        return found if call is None else watched(call, name, found)

    def __reduce_ex__(self, protocol: Any):
        return _blank, (type(self).__mro__[2],), self.__dict__, None, iter(self.items())


def split(
    block: nn.Module,
    adapter: Adapter,
    branches: Sequence[Branch],
    connections: Sequence[Connection],
    expand: ExpandStreams | None,
    reduce: ReduceStreams | None,
) -> None:
    """Replace the additions of a block by connections; without `branches`, one connection is around all of it."""
    for name, part in zip(PARTS, (list(connections), expand, reduce), strict=True):
        if part is not None:
            setattr(block, name, part)
    ends: dict[str, set[int]] = {}
    for index, branch in enumerate(branches):
        ends.setdefault(branch.end, set()).add(index)
    begins = {branch.begin: index for index, branch in enumerate(branches)}
    seams = Seams(adapter.state, begins, {name: frozenset(own) for name, own in ends.items()})
    block.hyper_seams, block.hyper_call = seams, None
    block.__class__ = _multi_stream(type(block))


def join(block: Any) -> None:
    """Undo `split`."""
    block.__class__ = type(block).__mro__[2]
    for name in PARTS:
        block.pop(name, None)
    del block.hyper_seams, block.hyper_call


@functools.cache
def _multi_stream(base: type) -> Any:
    """The subclass, under the name of the original, which sharding and adapters of other people's code may ask for."""
    return type(base.__name__, (MultiStream, base), {"__module__": base.__module__, "__qualname__": base.__qualname__})


def _blank(base: type) -> Any:
    kind = _multi_stream(base)
    return kind.__new__(kind)
