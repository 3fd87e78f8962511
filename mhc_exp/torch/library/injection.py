"""Existing models with several streams: `inject` and back, `eject`.

The blocks of a run (a ModuleList or Sequential of blocks of one shape) keep n streams between them: the first expands,
the last reduces, and inside each one the connections read before and write after every branch. What the block adds to
itself is a tensor of zeros that nobody looks at. Class, call and state-dict names of every module stay as they are;
parameters of the connections are new names, `....hyper_connections.N.*` of each block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from mhc_exp.config.standalone import Standalone, check_word, difference_problem, injected_variant
from mhc_exp.config.variants import Streams, Variant
from mhc_exp.topology.families import preserves_the_function_at_step_0
from mhc_exp.torch.library.adapters import ADAPTERS, Adapter, Branch, CannotInject, adapter_of, width_of
from mhc_exp.torch.library.connection import Connection, Kernels
from mhc_exp.torch.library.evaluation import evaluated
from mhc_exp.torch.library.families import connect
from mhc_exp.torch.library.hyper import ExpandStreams, ReduceStreams
from mhc_exp.torch.library.splitting import MultiStream, join, split

Model = TypeVar("Model", bound=nn.Module)


def inject(
    model: Model,
    variant: str | Variant = "mhc",
    streams: int | None = None,
    *,
    train: Literal["all", "connections"] = "all",
    adapters: Sequence[Adapter] = (),
    width: int | None = None,
    example: Any = None,
    kernels: Kernels = "auto",
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    **keys: Any,
) -> Model:
    """Give `model` several streams, in place; the same model comes back.

    Unless `variant` comes with keys of its own for them, streams are averaged at the end (`reduce="mean"`) and start as
    `init="preserving"` where the variant's gates are sigmoids, and segments end without a norm (`reduce_norm="none"`):
    the model's function is what it was (to rounding). `preserves(model)` says whether that holds.

    - `train="connections"` freezes everything else.
    - `adapters` come before mhc_exp.torch.library.adapters.ADAPTERS; `width` where a block does not tell.
    - `example`: an input (a tensor, a tuple of arguments or a dict of keywords). The model is run with it before and
      after; one that is not the same function afterwards, though the variant promises it, is ejected and refused.
    - `kernels`, `seed`, `options` and further keys are those of HyperConnection.

    Raises CannotInject with the reason where a block cannot be split, ConfigError for a variant or key that is not
    there; the model is then what it was.
    """
    check_word("train", train, ("all", "connections"))
    runs = list(_runs(model, [*adapters, *ADAPTERS]))
    _refuse(model, runs)
    spec = injected_variant(variant, streams, dict(options or {}) | keys)
    count = sum(len(_branches(spec, block, adapter)) or 1 for run in runs for block, adapter in run)
    before = None if example is None else _outputs(model, example)
    index = 0
    try:
        for run in runs:
            index = _inject_run(run, spec, index, count, width, kernels, seed)
        if before is not None and preserves(model):
            _compare(model, before, example)
    except Exception:  # whatever it is, no model is left half way, or other than it was
        if is_injected(model):
            eject(model)
        raise
    if train == "connections":
        freeze_body(model)
    return model


def eject(model: Model) -> Model:
    """Take the connections out again: the model, its classes and its state-dict names as before `inject`."""
    blocks = injected_blocks(model)
    if not blocks:
        raise CannotInject(f"{type(model).__name__} has no connections to eject; inject(model) puts them in")
    for block in blocks:
        join(block)
    return model


def preserves(model: nn.Module) -> bool:
    """Whether the injected model's variant promises the original function at step 0."""
    return all(preserves_the_function_at_step_0(one.variant) for one in connections(model)) and is_injected(model)


def is_injected(model: nn.Module) -> bool:
    """Whether `inject` has been here."""
    return bool(injected_blocks(model))


def injected_blocks(model: nn.Module) -> list[MultiStream]:
    """The blocks that `inject` has changed, in order."""
    return [module for module in model.modules() if isinstance(module, MultiStream)]


def connections(model: nn.Module) -> list[Connection]:
    """All stream connections of a model, in order; injected or built."""
    return [module for module in model.modules() if isinstance(module, Connection)]


def connection_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Parameters of all connections, expansions and read-outs."""
    kinds = (Connection, ExpandStreams, ReduceStreams)
    found = [p for module in model.modules() if isinstance(module, kinds) for p in module.parameters()]
    return list(dict.fromkeys(found))


def freeze_body(model: Model) -> Model:
    """Let only the connections learn; `requires_grad_(True)` on the model undoes it."""
    model.requires_grad_(False)
    for parameter in connection_parameters(model):
        parameter.requires_grad_(True)
    return model


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float = 0.0, connection_lr: float | None = None
) -> list[dict[str, Any]]:
    """Groups for an optimizer of PyTorch: the body, and the connections without weight decay (which would pull H_pre,
    H_post and H_res towards values that mean nothing). Parameters that are frozen are left out.
    """
    own = connection_parameters(model)
    known = {id(parameter) for parameter in own}
    body = [p for p in model.parameters() if id(p) not in known and p.requires_grad]
    groups = [
        {"params": body, "lr": lr, "weight_decay": weight_decay},
        {"params": [p for p in own if p.requires_grad], "lr": connection_lr or lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


Run = list[tuple[nn.Module, Adapter]]


def _runs(model: nn.Module, adapters: Sequence[Adapter]) -> Iterator[Run]:
    """Neighbouring blocks of one container that keep the shape of their state."""
    for container in model.modules():
        if isinstance(container, MultiStream):
            raise CannotInject(f"{type(model).__name__} has connections already; eject(model) takes them out")
        run: Run = []
        for child in _children(container):
            adapter = adapter_of(child, adapters)
            if adapter is not None and adapter.straight(child):
                run.append((child, adapter))
            elif run:
                yield run
                run = []
        if run:
            yield run


def _children(container: nn.Module) -> Iterable[nn.Module]:
    """Modules of a list, repetitions included."""
    return list(container) if isinstance(container, nn.ModuleList | nn.Sequential) else ()


def _refuse(model: nn.Module, runs: list[Run]) -> None:
    if not runs:
        inside = sorted({type(child).__name__ for part in model.modules() for child in _children(part)})
        known = ", ".join(sorted({name for one in ADAPTERS for name in one.blocks}))
        raise CannotInject(
            f"no residual blocks that are known in {type(model).__name__}. Its lists of modules hold "
            f"{', '.join(inside) or 'nothing'}; known are {known}. Say where the additions of yours are: "
            "inject(model, adapters=[Adapter(('YourBlock',), (Branch('norm1', 'attention'), Branch('norm2', 'mlp')))])"
        )
    blocks = [block for run in runs for block, _ in run]
    if len({id(block) for block in blocks}) < len(blocks):
        raise CannotInject("a block occurs twice: shared blocks would share their connections, which is no mHC")
    for run in runs:
        for block, adapter in run:
            if isinstance(block, nn.Sequential):
                raise CannotInject("a block may not be a bare nn.Sequential; give it a class with a forward pass")
            reason = adapter.why_not(block)
            if reason:
                raise CannotInject(reason)


def _inject_run(
    run: Run, spec: Standalone, index: int, count: int, width: int | None, kernels: Kernels, seed: int
) -> int:
    """Split the blocks of a run; the index of the next connection."""
    for place, (block, adapter) in enumerate(run):
        own = width or width_of(block, adapter)
        if own is None:
            raise CannotInject(f"{type(block).__name__} does not tell its width; type inject(..., width=<C>)")
        branches = _branches(spec, block, adapter)
        built = [
            connect(spec, own, index + offset, count, seed=seed, kernels=kernels)
            for offset in range(max(1, len(branches)))
        ]
        channels = adapter.channel_dim
        expand = ExpandStreams(spec, own, channel_dim=channels, seed=seed) if place == 0 else None
        reduce = ReduceStreams(spec, own, channel_dim=channels) if place == len(run) - 1 else None
        split(block, adapter, branches, built, expand, reduce)
        index += len(built)
    return index


def _branches(spec: Standalone, block: nn.Module, adapter: Adapter) -> list[Branch]:
    """The branches of a block that get a connection each; none if one connection is around the whole block."""
    if isinstance(spec, Streams) and spec.site == "block":
        return []
    return [one for one in adapter.branches if one.present(block)]


def _outputs(model: nn.Module, example: Any) -> list[torch.Tensor]:
    """Tensors of real numbers that the model returns."""
    found = evaluated(model, example)
    values = found.values() if isinstance(found, Mapping) else found if isinstance(found, tuple | list) else [found]
    return [one.clone() for one in values if isinstance(one, torch.Tensor) and one.is_floating_point()]


def _compare(model: nn.Module, before: list[torch.Tensor], example: Any) -> None:
    errors = [_difference(*pair) for pair in zip(_outputs(model, example), before, strict=True)]
    if problem := difference_problem(errors, [torch.finfo(one.dtype).eps for one in before]):
        raise CannotInject(problem)


def _difference(after: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over the largest finite entry (at least 1); what is infinite in both is the same."""
    if expected.numel() == 0:
        return 0.0
    apart = torch.where(after == expected, 0.0, (after - expected).abs())
    size = torch.where(expected.isfinite(), expected.abs(), 0.0).max().clamp(min=1)
    return float(apart.max() / size)
