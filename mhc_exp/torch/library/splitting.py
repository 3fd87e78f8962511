"""A block whose additions are replaced by connections, without touching its code.

Its class is replaced by a subclass of the same name, whose forward pass takes the streams, hands zeros to the original
one and returns the streams. Hooks on the submodules where branches begin and end read from and write to the streams in
between. (A subclass rather than hooks on the block itself: gradient checkpointing of transformers recomputes what is
inside `forward`, and that has to be all of this.)
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mhc_exp.torch.library.adapters import Adapter, Branch, CannotInject
from mhc_exp.torch.library.connection import Connection, Entered
from mhc_exp.torch.library.hyper import ExpandStreams, ReduceStreams

PARTS = ("hyper_connections", "hyper_expand", "hyper_reduce")
"""Submodules that a split block has in addition."""


class Frame:
    """What one call of a block knows: its streams, and which connection has read and waits to write."""

    def __init__(self, adapter: Adapter, branches: int, optional: int):
        self.channel_dim, self.state, self.after = adapter.channel_dim, adapter.state, adapter.after
        self.whole = branches == 0
        """Whether one connection is around the block, which then keeps its additions."""
        self.fewest = max(1, branches - optional)
        """How many branches run in every call; a decoder without an encoder leaves its cross attention out."""
        self.streams: Tensor | None = None
        self.written = 0
        self.reading: tuple[Connection, Entered] | None = None

    def read(self, connection: Connection) -> Tensor:
        if self.streams is None:
            raise RuntimeError("a branch of an injected block was called on its own; call the block")
        u, entered = connection.read(self.streams)
        self.reading = connection, entered
        return u.movedim(-1, self.channel_dim)

    def write(self, y: Tensor) -> None:
        assert self.reading is not None
        connection, entered = self.reading
        self.streams = connection.write(entered, y.movedim(self.channel_dim, -1))
        self.reading, self.written = None, self.written + 1


class Begin:
    """Hook before the submodule where branches begin: it gets what the connection reads."""

    def __init__(self, frame: Frame, connection: Connection):
        self.frame, self.connection = frame, (connection,)  # a tuple: no module is registered twice

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]):
        if self.frame.streams is None:
            return None
        if args:
            return (self.frame.read(self.connection[0]), *args[1:]), kwargs
        first = next(iter(kwargs))
        return args, {**kwargs, first: self.frame.read(self.connection[0])}


class End:
    """Hook after the submodule where branches end: its output is written to the streams; the block adds zeros."""

    def __init__(self, frame: Frame, begins: Sequence[Connection]):
        self.frame, self.begins = frame, tuple(begins)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if self.frame.reading is None or self.frame.reading[0] not in self.begins:
            return None
        y, *rest = output if isinstance(output, tuple) else (output,)
        self.frame.write(y)
        zeros = torch.zeros_like(y)
        return (zeros, *rest) if isinstance(output, tuple) else zeros


class MultiStream:
    """What a split block is, besides its own class."""

    hyper_frame: Frame
    hyper_hooks: tuple[Any, ...]
    hyper_connections: nn.ModuleList

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The original forward pass, with streams [*, S, C] in place of the state (the first block: [*, C])."""
        frame = self.hyper_frame
        given = args[0] if args else kwargs[frame.state]
        expand = getattr(self, "hyper_expand", None)
        frame.streams, frame.written, frame.reading = given if expand is None else expand(given), 0, None
        try:
            output = self._around(frame, args, kwargs)
            streams = frame.streams
        finally:
            frame.streams = frame.reading = None
        reduce = getattr(self, "hyper_reduce", None)
        if frame.after is not None:
            streams = getattr(self, frame.after)(streams)
        state = streams if reduce is None else reduce(streams)
        return (state, *output[1:]) if isinstance(output, tuple) else state

    def _around(self, frame: Frame, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if frame.whole:
            carrier = frame.read(self.hyper_connections[0])  # type: ignore[arg-type]
        else:
            streams: Tensor = frame.streams  # type: ignore[assignment]
            carrier = streams.new_zeros(*streams.shape[:-2], self._width()).movedim(-1, frame.channel_dim)
        args, kwargs = ((carrier, *args[1:]), kwargs) if args else (args, {**kwargs, frame.state: carrier})
        output = super().forward(*args, **kwargs)  # type: ignore[misc]
        if frame.whole:
            frame.write(output[0] if isinstance(output, tuple) else output)
        if not frame.fewest <= frame.written <= len(self.hyper_connections):
            raise CannotInject(
                f"{type(self).__name__} ran {frame.written} of its {len(self.hyper_connections)} branches: its forward "
                "pass does not call the submodules that its adapter names, one after the other"
            )
        return output

    def _width(self) -> int:
        return self.hyper_connections[0].width  # type: ignore[return-value]

    def __reduce_ex__(self, protocol: Any):
        base = type(self).__mro__[2]
        return _blank, (base,), self.__dict__


def split(
    block: nn.Module,
    adapter: Adapter,
    branches: Sequence[Branch],
    connections: Sequence[Connection],
    expand: ExpandStreams | None,
    reduce: ReduceStreams | None,
) -> None:
    """Replace the additions of a block by connections; without `branches`, one connection is around all of it."""
    first = next(block.parameters(), None)
    parts = dict(zip(PARTS, (nn.ModuleList(connections), expand, reduce), strict=True))
    for name, part in parts.items():
        if part is not None:
            block.add_module(name, part if first is None else part.to(first.device))
    frame, hooks = Frame(adapter, len(branches), sum(branch.optional for branch in branches)), []
    ends: dict[str, list[Connection]] = {}
    for branch, connection in zip(branches, connections[: len(branches)], strict=True):
        begin = block.get_submodule(branch.begin)
        hooks.append(begin.register_forward_pre_hook(Begin(frame, connection), prepend=True, with_kwargs=True))
        ends.setdefault(str(branch.end_of(block)), []).append(connection)
    hooks += [block.get_submodule(name).register_forward_hook(End(frame, own)) for name, own in ends.items()]
    block.hyper_frame, block.hyper_hooks = frame, tuple(hooks)  # type: ignore[assignment]
    block.__class__ = _multi_stream(type(block))


def join(block: Any) -> None:
    """Undo `split`."""
    for hook in block.hyper_hooks:
        hook.remove()
    block.__class__ = type(block).__mro__[2]
    for name in (*PARTS, "hyper_frame", "hyper_hooks"):
        if hasattr(block, name):
            delattr(block, name)


@functools.cache
def _multi_stream(base: type) -> type:
    """The subclass, under the name of the original: sharding and device maps go by names of classes."""
    return type(base.__name__, (MultiStream, base), {"__module__": base.__module__, "__qualname__": base.__qualname__})


def _blank(base: type) -> Any:
    return object.__new__(_multi_stream(base))
