"""Existing MLX models with several streams: `inject` and back, `eject`.

Mirrors torch/library/injection.py. The blocks of a run (a list of blocks of one shape) keep n streams between them: the
first expands, the last reduces, and inside each one the connections read before and write after every branch. Classes'
names, calls and the names of the body's weights stay as they are; weights of the connections are new names,
`....hyper_connections.N.*` of each block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from mhc_exp.config.standalone import Standalone, check_word, difference_problem, injected_variant
from mhc_exp.config.variants import Streams, Variant
from mhc_exp.mlx.library.adapters import ADAPTERS, Adapter, Branch, CannotInject, adapter_of, width_of
from mhc_exp.mlx.library.families import connect
from mhc_exp.mlx.library.hyper import ExpandStreams, ReduceStreams
from mhc_exp.mlx.library.modules import connections, freeze_body, in_evaluation, named_modules
from mhc_exp.mlx.library.splitting import MultiStream, join, split
from mhc_exp.topology.families import preserves_the_function_at_step_0

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
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    **keys: Any,
) -> Model:
    """Give `model` several streams, in place; the same model comes back.

    Unless `variant` comes with keys of its own for them, streams are averaged at the end (`reduce="mean"`) and start as
    `init="preserving"` where the variant's gates are sigmoids, and segments end without a norm (`reduce_norm="none"`):
    the model's function is what it was (to rounding). `preserves(model)` says whether that holds.

    - `train="connections"` freezes everything else.
    - `adapters` come before mhc_exp.mlx.library.adapters.ADAPTERS; `width` where a block does not tell.
    - `example`: an input (an array, a tuple of arguments or a dict of keywords). The model is run with it before and
      after; one that is not the same function afterwards, though the variant promises it, is ejected and refused.
    - `seed`, `options` and further keys are those of HyperConnection.

    Raises CannotInject with the reason where a block cannot be split, ConfigError for a variant or key that is not
    there; the model is then what it was.
    """
    check_word("train", train, ("all", "connections"))
    runs = list(_runs(model, [*adapters, *ADAPTERS]))
    _refuse(model, runs)
    spec = injected_variant(variant, streams, dict(options or {}) | keys)
    count = sum(len(_branches(spec, adapter)) or 1 for run in runs for _, adapter in run)
    before = None if example is None else _outputs(model, example)
    index = 0
    try:
        for run in runs:
            index = _inject_run(run, spec, index, count, width, seed)
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
    """Take the connections out again: the model, its classes and the names of its weights as before `inject`."""
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
    return [module for _, module in named_modules(model) if isinstance(module, MultiStream)]


Run = list[tuple[nn.Module, Adapter]]


def _runs(model: nn.Module, adapters: Sequence[Adapter]) -> Iterator[Run]:
    """Neighbouring blocks of one list."""
    for _, module in named_modules(model):
        if isinstance(module, MultiStream):
            raise CannotInject(f"{type(model).__name__} has connections already; eject(model) takes them out")
        for children in _lists(module):
            run: Run = []
            for child in children:
                adapter = adapter_of(child, adapters)
                if adapter is not None:
                    run.append((child, adapter))
                elif run:
                    yield run
                    run = []
            if run:
                yield run


def _lists(module: nn.Module) -> list[list[nn.Module]]:
    """The lists of modules that a module holds, repetitions included."""
    found = [value for value in module.values() if isinstance(value, list)]
    return [[child for child in children if isinstance(child, nn.Module)] for children in found]


def _refuse(model: nn.Module, runs: list[Run]) -> None:
    if not runs:
        parts = [module for _, module in named_modules(model)]
        inside = sorted({_full_name(child) for part in parts for children in _lists(part) for child in children})
        known = ", ".join(name for one in ADAPTERS for name in one.blocks)
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
            reason = adapter.why_not(block)
            if reason:
                raise CannotInject(reason)


def _full_name(module: nn.Module) -> str:
    kind = type(module)
    return kind.__name__ if kind.__module__.startswith("mlx.nn.") else f"{kind.__module__}.{kind.__name__}"


def _inject_run(run: Run, spec: Standalone, index: int, count: int, width: int | None, seed: int) -> int:
    """Split the blocks of a run; the index of the next connection."""
    for place, (block, adapter) in enumerate(run):
        own = width or width_of(block, adapter)
        if own is None:
            raise CannotInject(f"{type(block).__name__} does not tell its width; type inject(..., width=<C>)")
        branches = _branches(spec, adapter)
        built = [connect(spec, own, index + offset, count, seed=seed) for offset in range(max(1, len(branches)))]
        expand = ExpandStreams(spec, own, seed=seed) if place == 0 else None
        reduce = ReduceStreams(spec, own) if place == len(run) - 1 else None
        split(block, adapter, branches, built, expand, reduce)
        index += len(built)
    return index


def _branches(spec: Standalone, adapter: Adapter) -> tuple[Branch, ...]:
    """The branches of a block that get a connection each; none if one connection is around the whole block."""
    return () if isinstance(spec, Streams) and spec.site == "block" else adapter.branches


def _outputs(model: nn.Module, example: Any) -> list[mx.array]:
    example = (example,) if isinstance(example, mx.array) else example
    with in_evaluation(model):
        found = model(**example) if isinstance(example, Mapping) else model(*example)
        arrays = [value for _, value in tree_flatten(found) if isinstance(value, mx.array)]
        arrays = [value for value in arrays if mx.issubdtype(value.dtype, mx.floating)]
        mx.eval(arrays)
    return arrays


def _compare(model: nn.Module, before: list[mx.array], example: Any) -> None:
    errors = [_difference(*pair) for pair in zip(_outputs(model, example), before, strict=True)]
    if problem := difference_problem(errors, [mx.finfo(one.dtype).eps for one in before]):
        raise CannotInject(problem)


def _difference(after: mx.array, expected: mx.array) -> float:
    """Largest difference over the largest finite entry (at least 1); what is infinite in both is the same."""
    if expected.size == 0:
        return 0.0
    apart = mx.where(after == expected, 0.0, mx.abs(after - expected))
    size = mx.maximum(mx.where(mx.isfinite(expected), mx.abs(expected), 0.0).max(), 1.0)
    return float(apart.max() / size)
