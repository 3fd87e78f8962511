"""Existing models with mixing of the last states: `inject_mhc` and back, `eject_mhc`.

Every target becomes out = F(x) + sum_k a_k h_k, where h_0 = x is what enters it and h_1, h_2, ... are what the targets
before it made or were given, of the same call of the model. Nothing outlives that call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

from mhc_exp.torch.library.adapters import CannotInject
from mhc_exp.torch.library.evaluation import evaluated
from mhc_exp.torch.library.history import Constraint, HistoryConnection
from mhc_exp.torch.library.projections import Shape

Model = TypeVar("Model", bound=nn.Module)
NAME = "history_connection"
"""Submodule that a target has in addition."""


class Memory:
    """The history of one call of the model, newest first, and how many targets have run; closed between calls."""

    def __init__(self):
        self.states: list[Tensor] | None = None
        self.ran = 0

    def enter(self, model: nn.Module, args: Any) -> None:
        self.states, self.ran = [], 0

    def leave(self, model: nn.Module, args: Any, output: Any) -> None:
        self.states = None


class Mix:
    """Hook after a target: mixes the history into its output."""

    def __init__(self, memory: Memory, index: int, connection: HistoryConnection):
        self.memory, self.index, self.connection = memory, index, (connection,)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        memory = self.memory
        if memory.states is None:
            raise RuntimeError(
                "a target of inject_mhc ran outside a call of the model (on its own, or recomputed by gradient "
                "checkpointing, which would mix another history); call the model, without checkpointing"
            )
        if memory.ran != self.index:
            raise RuntimeError(
                f"target {self.index} of inject_mhc ran as number {memory.ran}: every call has to run each of them "
                "once, in the order in which `example` ran them"
            )
        x = args[0] if args else next(iter(kwargs.values()))
        y, *rest = output if isinstance(output, tuple) else (output,)
        memory.states = self.connection[0].step([x, *memory.states[1:]], y)
        memory.ran += 1
        return (memory.states[0], *rest) if isinstance(output, tuple) else memory.states[0]


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

    `example` (a tensor, a tuple of arguments or a dict of keywords) is run once: it tells the order of the targets and
    the shapes between which projections are made, so that an optimizer built afterwards has all parameters. Targets
    whose output cannot be projected to are refused by name. `keys` are those of HistoryConnection. A target with a
    residual of its own keeps it: choose types without one, or `inject`.
    """
    types = (target_types,) if isinstance(target_types, type) else tuple(target_types)
    if hasattr(model, "history_hooks"):
        raise CannotInject(f"{type(model).__name__} mixes its history already; eject_mhc(model) takes that out")
    targets = _traced(model, types, example)
    memory, hooks = Memory(), []
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
    for index, (target, one) in enumerate(built):
        parameter = next(target.parameters(), None)
        target.add_module(NAME, one if parameter is None else one.to(parameter.device, parameter.dtype))
        hooks.append(target.register_forward_hook(Mix(memory, index, one), with_kwargs=True))
    hooks.append(model.register_forward_pre_hook(memory.enter, prepend=True))
    hooks.append(model.register_forward_hook(memory.leave, always_call=True))
    model.history_hooks = tuple(hooks)  # type: ignore[assignment]
    return model


def eject_mhc(model: Model) -> Model:
    """Undo `inject_mhc`."""
    if not hasattr(model, "history_hooks"):
        raise CannotInject(f"{type(model).__name__} has no mixing to eject; inject_mhc(model, ...) puts it in")
    for hook in model.history_hooks:  # type: ignore[union-attr]
        hook.remove()
    for module in [one for one in model.modules() if NAME in one._modules]:
        delattr(module, NAME)
    delattr(model, "history_hooks")
    return model


def _traced(
    model: nn.Module, types: tuple[type[nn.Module], ...], example: Any
) -> list[tuple[str, nn.Module, Shape, Shape]]:
    """(name, target, shape of its input, shape of its output), in the order in which they run."""
    found: list[tuple[str, nn.Module, Shape, Shape]] = []
    names = {module: name for name, module in model.named_modules() if isinstance(module, types)}

    def saw(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        x = args[0] if args else next(iter(kwargs.values()))
        y = output[0] if isinstance(output, tuple) else output
        found.append((names[module], module, tuple(x.shape[1:]), tuple(y.shape[1:])))

    hooks = [module.register_forward_hook(saw, with_kwargs=True) for module in names]
    try:
        evaluated(model, example)
    finally:
        for hook in hooks:
            hook.remove()
    _refuse(model, types, [module for _, module, *_ in found], names)
    return found


def _refuse(model: nn.Module, types: tuple[type, ...], ran: list[nn.Module], names: dict[nn.Module, str]) -> None:
    wanted = ", ".join(one.__name__ for one in types)
    if not names:
        raise CannotInject(f"{type(model).__name__} has no modules of type {wanted}")
    if not ran:
        raise CannotInject(
            f"no module of type {wanted} ran in `example`; choose other target_types, or another example"
        )
    nested = [
        name for module, name in names.items() if any(part in names for part in module.modules() if part is not module)
    ]
    twice = sorted({names[module] for module in ran if ran.count(module) > 1})
    containers = [name for module, name in names.items() if isinstance(module, nn.Sequential | nn.ModuleList)]
    for bad, why in (
        (containers, "are mere containers"),
        (nested, "contain other targets"),
        (twice, "run more than once per call"),
    ):
        if bad:
            raise CannotInject(f"targets of type {wanted} that {why}: {', '.join(bad)}; choose other target_types")
