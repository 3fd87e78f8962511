"""Existing MLX models with mixing of the last states: `inject_mhc` and back, `eject_mhc`.

Does what torch/library/history_injection.py does. MLX has no hooks: the classes of the model and of its targets are
replaced by subclasses of the same name that open and close the history, and mix it into what the original code returns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import mlx.core as mx
from mlx import nn

from mhc_exp.mlx.library.adapters import CannotInject
from mhc_exp.mlx.library.history import Constraint, HistoryConnection
from mhc_exp.mlx.library.modules import in_evaluation, named_modules
from mhc_exp.mlx.library.projections import Shape

Model = TypeVar("Model", bound=nn.Module)
NAME = "history_connection"
"""Submodule that a target has in addition."""


class Memory:
    """The history of one call of the model, newest first, and how many targets have run; closed between calls."""

    def __init__(self):
        self.states: list[mx.array] | None = None
        self.ran = 0

    def mix(self, index: int, connection: HistoryConnection, x: mx.array, y: mx.array) -> mx.array:
        """What target `index` returns in place of y."""
        if self.states is None:
            raise RuntimeError(
                "a target of inject_mhc ran outside a call of the model (on its own, or recomputed by gradient "
                "checkpointing, which would mix another history); call the model, without checkpointing"
            )
        if self.ran != index:
            raise RuntimeError(
                f"target {index} of inject_mhc ran as number {self.ran}: every call has to run each of them once, in "
                "the order in which `example` ran them"
            )
        self.states = connection.step([x, *self.states[1:]], y)
        self.ran += 1
        return self.states[0]


class Subclassed:
    """What the replaced classes share: the original is the class after next, and copies are copies."""

    items: Callable[..., Any]

    def __reduce_ex__(self, protocol: Any):
        own = type(self)
        return (
            _blank,
            (own.__mro__[1], own.__mro__[own.__mro__.index(Subclassed) + 1]),
            self.__dict__,
            None,
            iter(self.items()),
        )


class Remembering(Subclassed):
    """The model: a history begins and ends with each of its calls."""

    history_memory: Memory

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        memory = self.history_memory
        memory.states, memory.ran = [], 0
        try:
            return super().__call__(*args, **kwargs)  # type: ignore[misc]
        finally:
            memory.states = None


class Target(Subclassed):
    """A target: `history_hook` makes of its first argument and its output what it returns."""

    history_hook: Callable[[Any, mx.array, mx.array], mx.array]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        x = args[0] if args else next(iter(kwargs.values()))
        output = super().__call__(*args, **kwargs)  # type: ignore[misc]
        y, *rest = output if isinstance(output, tuple) else (output,)
        y = self.history_hook(self, x, y)
        return (y, *rest) if isinstance(output, tuple) else y


class Mix:
    """Hook of target `index`."""

    def __init__(self, memory: Memory, index: int):
        self.memory, self.index = memory, index

    def __call__(self, target: Any, x: mx.array, y: mx.array) -> mx.array:
        return self.memory.mix(self.index, target[NAME], x, y)


def inject_mhc(
    model: Model,
    target_types: type[nn.Module] | Sequence[type[nn.Module]],
    max_history: int = 4,
    constraint: Constraint = "simplex",
    *,
    example: Any,
    **keys: Any,
) -> Model:
    """Mix the last states into the output of every module of these types, in place; the same model comes back.

    `example` (an array, a tuple of arguments or a dict of keywords) is run once: it tells the order of the targets and
    the shapes between which projections are made, so that an optimizer built afterwards has all parameters. Targets
    whose output cannot be projected to are refused by name. `keys` are those of HistoryConnection. A target with a
    residual of its own keeps it: choose types without one, or `inject`. Modules that are not called (a layer whose
    weights are read instead) are no targets.
    """
    types = (target_types,) if isinstance(target_types, type) else tuple(target_types)
    if isinstance(model, Remembering):
        raise CannotInject(f"{type(model).__name__} mixes its history already; eject_mhc(model) takes that out")
    targets = _traced(model, types, example)
    built: list[tuple[nn.Module, HistoryConnection]] = []
    history: list[Shape] = []
    for index, (name, target, before, after) in enumerate(targets):
        history = [before, *history[1:]][:max_history]
        try:
            one = HistoryConnection(nn.Identity(), index, max_history, constraint, shapes=[*history, after], **keys)
        except ValueError as reason:
            raise CannotInject(f"{name}: {reason}") from reason
        built.append((target, one))
        history = [after, *history]
    memory = Memory()
    for index, (target, one) in enumerate(built):
        setattr(target, NAME, one)
        _hook(target, Mix(memory, index))
    model.history_memory = memory
    model.__class__ = _subclass(Remembering, type(model))
    return model


def eject_mhc(model: Model) -> Model:
    """Undo `inject_mhc`."""
    if not isinstance(model, Remembering):
        raise CannotInject(f"{type(model).__name__} has no mixing to eject; inject_mhc(model, ...) puts it in")
    _restore(model)
    del model.history_memory
    for _, module in list(named_modules(model)):
        if isinstance(module, Target):
            module.pop(NAME)
            _unhook(module)
    return model


def _traced(
    model: nn.Module, types: tuple[type[nn.Module], ...], example: Any
) -> list[tuple[str, nn.Module, Shape, Shape]]:
    """(name, target, shape of its input, shape of its output), in the order in which they run; nothing is computed."""
    names = {id(module): name for name, module in named_modules(model) if isinstance(module, types)}
    modules = [module for _, module in named_modules(model) if isinstance(module, types)]
    targets = list({id(module): module for module in modules}.values())
    found: list[tuple[str, nn.Module, Shape, Shape]] = []

    def saw(module: Any, x: mx.array, y: mx.array) -> mx.array:
        found.append((names[id(module)], module, tuple(x.shape[1:]), tuple(y.shape[1:])))
        return y

    _refuse(model, types, targets, names)
    example = (example,) if isinstance(example, mx.array) else example
    for target in targets:
        _hook(target, saw)
    try:
        with in_evaluation(model):
            _ = model(**example) if isinstance(example, Mapping) else model(*example)
    finally:
        for target in targets:
            _unhook(target)
    if not found:
        wanted = ", ".join(one.__name__ for one in types)
        raise CannotInject(
            f"no module of type {wanted} ran in `example`; choose other target_types, or another example"
        )
    ran = [id(module) for _, module, *_ in found]
    _say("run more than once per call", types, sorted({names[one] for one in ran if ran.count(one) > 1}))
    return found


def _refuse(model: nn.Module, types: tuple[type, ...], targets: list[nn.Module], names: Mapping[int, str]) -> None:
    if not targets:
        wanted = ", ".join(one.__name__ for one in types)
        raise CannotInject(f"{type(model).__name__} has no modules of type {wanted}")
    inside = {id(module): {id(part) for _, part in named_modules(module)} - {id(module)} for module in targets}
    _say("are mere containers", types, [names[id(one)] for one in targets if isinstance(one, nn.Sequential)])
    _say("contain other targets", types, [names[one] for one, parts in inside.items() if parts & names.keys()])
    _say("are the model itself", types, [type(model).__name__ for one in targets if one is model])


def _say(why: str, types: tuple[type, ...], bad: Sequence[str]) -> None:
    if bad:
        wanted = ", ".join(one.__name__ for one in types)
        raise CannotInject(f"targets of type {wanted} that {why}: {', '.join(bad)}; choose other target_types")


def _hook(target: Any, hook: Callable[[Any, mx.array, mx.array], mx.array]) -> None:
    target.__class__ = _subclass(Target, type(target))
    target.history_hook = hook


def _unhook(target: Any) -> None:
    del target.history_hook
    _restore(target)


def _restore(module: Any) -> None:
    module.__class__ = type(module).__mro__[type(module).__mro__.index(Subclassed) + 1]


@functools.cache
def _subclass(kind: type, base: type) -> Any:
    """The subclass, under the name of the original, which other people's code may ask for."""
    return type(base.__name__, (kind, base), {"__module__": base.__module__, "__qualname__": base.__qualname__})


def _blank(kind: type, base: type) -> Any:
    own = _subclass(kind, base)
    return own.__new__(own)
