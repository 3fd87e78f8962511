"""Mixing of the last H states around any MLX module: x_(l+1) = sum_k a_k x_(l-k) + F(x_l).

Mirrors torch/library/history.py. A history is a list of arrays, newest first, that belongs to one call: nothing is cut
off from its gradient, nothing is kept. The mixing is the laboratory's (family `history`); shapes that differ meet
through projections made at construction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import mlx.core as mx
import numpy as np
from mlx import nn

from mhc_exp.config.standalone import history_variant
from mhc_exp.mlx.history.mixing import Mixing
from mhc_exp.mlx.library.hyper import as_tuple
from mhc_exp.mlx.library.projections import Shape, projection, shapes_along
from mhc_exp.mlx.library.recomputation import refuse_what_cannot_be_recomputed
from mhc_exp.mlx.recompute import Step, in_blocks
from mhc_exp.topology.history.mixing import states, values

Constraint = Literal["simplex", "identity", "doubly_stochastic"]
Mode = Literal["mhc", "hc", "residual"]


class HistoryConnection(nn.Module):
    """One step: from the history [x_l, x_(l-1), ...] to [x_(l+1), x_l, ...], at most `max_history` long.

    - `branch`: F; arguments and tuples pass through it as in HyperConnection.
    - `layer_index`: how many steps came before, hence how many states there are to mix.
    - `constraint`: `simplex`, a softmax; `identity`, a softmax of which the newest state gets at least `floor`;
      `doubly_stochastic`, a matrix that also mixes what is remembered.
    - `newest`: weight of the newest state at the start; the others share the rest.
    - `temperature` divides the logits; `stochastic=True` adds Gumbel noise to them in training.
    - `gate=True`: the mixed history times 2 sigmoid(g), g learned from 0.
    - `shapes`: of the states (newest first) and, last, of F's output, without the batch axis, where they differ;
      (H, W, C) for images.
    """

    def __init__(
        self,
        branch: Callable[..., Any],
        layer_index: int = 0,
        max_history: int = 4,
        constraint: Constraint = "simplex",
        *,
        newest: float = 0.98,
        floor: float = 0.1,
        iterations: int = 20,
        temperature: float = 1.0,
        stochastic: bool = False,
        gate: bool = False,
        shapes: Sequence[Shape] | None = None,
    ):
        super().__init__()
        spec = history_variant(max_history, constraint, newest, floor, iterations)
        self.branch = branch
        count = states(spec, layer_index // 2 + 1)[layer_index]
        start = values(spec, 1, layer_index // 2 + 1, 0).get(f"topology.connections.{layer_index}.logits")
        self.mixing = Mixing(spec, None if start is None else start.shape)
        if start is not None:
            self.mixing.logits = mx.array((start * temperature).astype(np.float32))
        self.max_history, self.temperature, self.stochastic = max_history, temperature, stochastic
        self._matrix = constraint == "doubly_stochastic"
        if gate:
            self.gate = mx.zeros(())
        self.projections = _projections(shapes, count, constraint)

    def __call__(self, history: Sequence[mx.array], *args: Any, **kwargs: Any) -> Any:
        """[x_l, x_(l-1), ...] -> [x_(l+1), x_l, ...]; (that, *rest) if the branch returns a tuple."""
        y, *rest = as_tuple(output := self.branch(history[0], *args, **kwargs))
        following = self.step(history, y)
        return (following, *rest) if isinstance(output, tuple) else following

    def step(self, history: Sequence[mx.array], y: mx.array) -> list[mx.array]:
        """The next history from this one and the branch's output y."""
        present = [self._fitted(age, state, y) for age, state in enumerate(history[: len(self.mixing_states)])]
        mixed, remembered = self._mixed(present)
        if "gate" in self:
            mixed = mixed * (2 * mx.sigmoid(self.gate))
        return [(mixed + y).astype(y.dtype), *(remembered if self._matrix else history)][: self.max_history]

    @property
    def mixing_states(self) -> range:
        """Ages of the states that this connection was built for."""
        return range(len(self.mixing.logits) if "logits" in self.mixing else 1)

    @property
    def kept(self) -> tuple[int, ...]:
        """Ages of the states that are mixed: `prune` takes some out, whose logits it makes minus infinity."""
        if self._matrix or "logits" not in self.mixing:
            return tuple(self.mixing_states)
        return tuple(age for age, logit in enumerate(self.mixing.logits.tolist()) if logit > -np.inf)  # type: ignore[arg-type]

    def weights(self) -> mx.array:
        """Weights of the states [h], newest first; zero for pruned ones."""
        if "logits" not in self.mixing:
            return mx.ones(1)
        logits = self._logits(noise=False)
        return self.mixing.matrix(logits)[0] if self._matrix else self.mixing.simplex(logits)

    def prune(self, threshold: float) -> int:
        """Stop mixing states (never the newest) whose weight is below `threshold`; returns how many. Weight and
        gradient of a pruned state are zero from then on; a file of weights remembers it.
        """
        if "logits" not in self.mixing:
            return 0
        if self._matrix:
            raise ValueError("a doubly stochastic matrix has no state to leave out; type constraint='simplex'")
        before, weights = self.kept, self.weights()
        gone = (weights < threshold) & (mx.arange(len(weights)) > 0)
        self.mixing.logits = mx.where(gone, -mx.inf, self.mixing.logits)
        return len(before) - len(self.kept)

    def _mixed(self, history: list[mx.array]) -> tuple[mx.array, list[mx.array]]:
        if "logits" not in self.mixing:
            return history[0], history
        if len(history) != len(self.mixing_states):
            raise ValueError(
                f"a connection for {len(self.mixing_states)} states got {len(history)}; layer_index is the number of "
                "connections before it, and every call starts with the history [x]"
            )
        return self.mixing.mix(self._logits(noise=self.stochastic and self.training), history)

    def _logits(self, noise: bool) -> mx.array:
        logits = self.mixing.logits
        if noise:
            logits = logits + mx.random.gumbel(logits.shape)
        return logits / self.temperature

    def _fitted(self, age: int, state: mx.array, y: mx.array) -> mx.array:
        if age < len(self.projections) and "weight" in self.projections[age]:
            return self.projections[age](state)
        if state.shape != y.shape:
            raise ValueError(
                f"a state {list(state.shape)} meets an output {list(y.shape)}, and no projection was made for it; pass "
                "`shapes` or `example` at construction, so that projections exist before the optimizer does"
            )
        return state


class MHCSequential(nn.Module):
    """Modules in turn, each followed by a mix of the last states: [*, C] -> [*, C'].

    - `mode`: `mhc`, under `constraint`; `hc`, a plain softmax whatever `constraint` says; `residual`, x + F(x).
    - `shapes`: of the input and of every module's output, without the batch axis; or `example`, an input they are
      traced with; else they are read off Linear modules (others keep the shape of what they get).
    - `checkpoint=True` keeps only the states and computes each module again in the backward pass; dropout, batch norm
      and `stochastic=True` are refused.
    - Others: see HistoryConnection.
    """

    def __init__(
        self,
        modules: Iterable[nn.Module],
        max_history: int = 4,
        mode: Mode = "mhc",
        constraint: Constraint = "simplex",
        *,
        checkpoint: bool = False,
        shapes: Sequence[Shape] | None = None,
        example: mx.array | None = None,
        **keys: Any,
    ):
        super().__init__()
        if mode not in ("mhc", "hc", "residual"):
            raise ValueError(f"mode={mode!r} is not one of mhc, hc, residual; streams are HyperSequential")
        if mode != "mhc":
            max_history, constraint = (max_history if mode == "hc" else 1), "simplex"
        self.checkpoint = checkpoint
        branches = list(modules)
        if checkpoint:
            _refuse_random_numbers(branches, keys)
        along = shapes_along(branches, shapes, example)
        self.connections: list[HistoryConnection] = []
        for index, branch in enumerate(branches):
            first = max(0, index + 1 - max_history)
            between = None if along is None else [*along[first : index + 1][::-1], along[index + 1]]
            self.connections.append(HistoryConnection(branch, index, max_history, constraint, shapes=between, **keys))

    def __call__(self, x: mx.array) -> mx.array:
        steps = [Step((one,), one) for one in self.connections]
        return in_blocks(_run, steps, 1 if self.checkpoint else None, x)[0]

    def prune(self, threshold: float) -> int:
        """Prune every connection; how many states went."""
        return sum(one.prune(threshold) for one in self.connections)


def _run(steps: Sequence[Step], *history: mx.array) -> tuple[mx.array, ...]:
    states: Sequence[mx.array] = history
    for step in steps:
        states = step.call(states)
    return tuple(states)


def _refuse_random_numbers(branches: Sequence[nn.Module], keys: dict[str, Any]) -> None:
    for branch in branches:
        refuse_what_cannot_be_recomputed(branch)
    if keys.get("stochastic"):
        raise ValueError(
            "checkpoint=True cannot recompute stochastic=True: MLX would draw other noise the second time; "
            "type one of them"
        )


def _projections(shapes: Sequence[Shape] | None, count: int, constraint: str) -> list[nn.Module]:
    """By age: what brings a state of another shape to that of the output; an Identity where nothing has to."""
    if shapes is None:
        return []
    if len(shapes) != count + 1:
        raise ValueError(f"shapes are those of {count} states and of the output, {count + 1} in all; got {len(shapes)}")
    *before, after = shapes
    fits = [tuple(shape) == tuple(after) for shape in before]
    if not all(fits) and constraint == "doubly_stochastic" and count > 1:
        raise ValueError(
            f"constraint='doubly_stochastic' mixes what is remembered, which needs one shape; got {list(shapes)}. "
            "Type constraint='simplex' or 'identity'"
        )
    return [nn.Identity() if fit else projection(shape, after) for fit, shape in zip(fits, before, strict=True)]
