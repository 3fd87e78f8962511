"""What a step of PyTorch keeps, holds and moves, counted and not sampled: the same numbers every time."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def saved_bytes(forward: Callable[[], Any], parameters: Iterable[Tensor]) -> int:
    """Bytes that autograd keeps after `forward` for the backward pass, each piece of memory once, parameters left out.

    Inside a recomputed block nothing is counted: there autograd keeps nothing.
    """
    outside = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in outside:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()  # kept alive, so that no address is used twice
    total = sum(kept.values())
    del result
    return total


class Meter(TorchDispatchMode):
    """Counts every operation within `with Meter() as meter:`, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        """Bytes of tensors made within, that are still alive now, and at most at any time."""
        self.moved = self.operations = 0
        """Bytes that operations read and wrote (views move nothing), and how many there were."""
        self._known: dict[int, tuple[weakref.ref[Any], int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        before = {tensor.untyped_storage().data_ptr() for tensor in given}
        if any(tensor.untyped_storage().data_ptr() not in before for tensor in made) or func._schema.is_mutable:
            self.operations += 1
            self.moved += sum(_distinct(tensor) for tensor in [*given, *made])
        for tensor in made:
            if tensor.untyped_storage().data_ptr() not in before:
                self._watch(tensor)
        return result

    def _watch(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._known:
            return
        self._known[key] = weakref.ref(storage, lambda _: self._forget(key)), size
        self.live += size
        self.peak = max(self.peak, self.live)

    def _forget(self, key: int) -> None:
        self.live -= self._known.pop(key)[1]


def _distinct(tensor: Tensor) -> int:
    """Bytes of the numbers of a tensor, those of a broadcast one once."""
    sizes = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    count = 1
    for size in sizes:
        count *= size
    return count * tensor.element_size()
