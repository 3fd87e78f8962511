"""Mixing of the last H states around any module: x_(l+1) = sum_k a_k x_(l-k) + F(x_l).

A history is a list of tensors, newest first, that belongs to one call: nothing is detached, nothing is kept. The mixing
is the laboratory's (family `history`); shapes that differ meet through projections made at construction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mhc_exp.config.standalone import history_variant
from mhc_exp.topology.history.mixing import states, values
from mhc_exp.torch.history.mixing import Mixing
from mhc_exp.torch.library.projections import Shape, projection, shapes_along
from mhc_exp.torch.recompute import in_blocks

Constraint = Literal["simplex", "identity", "doubly_stochastic"]
Mode = Literal["mhc", "hc", "residual"]
HistoryObserver = Callable[[Tensor, Tensor, Tensor, Tensor], None]
"""Called with the weights [h] of the states, the mixed history, the branch's output, and the new state."""


class HistoryConnection(nn.Module):
    """One step: from the history [x_l, x_(l-1), ...] to [x_(l+1), x_l, ...], at most `max_history` long.

    - `branch`: F; arguments and tuples pass through it as in HyperConnection.
    - `layer_index`: how many steps came before, hence how many states there are to mix.
    - `constraint`: `simplex`, a softmax; `identity`, a softmax of which the newest state gets at least `floor`;
      `doubly_stochastic`, a matrix that also mixes what is remembered.
    - `newest`: weight of the newest state at the start; the others share the rest.
    - `temperature` divides the logits; `stochastic=True` adds Gumbel noise to them in training.
    - `gate=True`: the mixed history times 2 sigmoid(g), g learned from 0.
    - `shapes`: of the states (newest first) and, last, of F's output, without the batch axis, where they differ.
    """

    observe: HistoryObserver | None = None
    """Called after every step; mhc_exp.torch.library.watch sets it for a step of training."""

    def __init__(
        self,
        branch: nn.Module,
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
        self.branch, self.layer_index = branch, layer_index
        count = states(spec, layer_index // 2 + 1)[layer_index]
        start = values(spec, 1, layer_index // 2 + 1, 0).get(f"topology.connections.{layer_index}.logits")
        self.mixing = Mixing(spec, None if start is None else start.shape)
        if start is not None and self.mixing.logits is not None:
            self.mixing.logits.data.copy_(torch.as_tensor(start) * temperature)
        self.max_history, self.temperature, self.stochastic = max_history, temperature, stochastic
        self.gate = nn.Parameter(torch.zeros(())) if gate else None
        self.kept = tuple(range(count))
        """Ages of the states that are mixed; `prune` takes some out."""
        self.projections = _projections(shapes, count, constraint)

    def forward(self, history: Sequence[Tensor], *args: Any, **kwargs: Any) -> Any:
        """[x_l, x_(l-1), ...] -> [x_(l+1), x_l, ...]; (that, *rest) if the branch returns a tuple."""
        output = self.branch(history[0], *args, **kwargs)
        y, *rest = output if isinstance(output, tuple) else (output,)
        following = self.step(history, y)
        return (following, *rest) if isinstance(output, tuple) else following

    def step(self, history: Sequence[Tensor], y: Tensor) -> list[Tensor]:
        """The next history from this one and the branch's output y."""
        present = [self._fitted(age, state, y) for age, state in enumerate(history[: len(self.mixing_states)])]
        mixed, remembered = self._mixed(present)
        if self.gate is not None:
            mixed = mixed * (2 * torch.sigmoid(self.gate))
        matrix = self.mixing.variant.constraint == "doubly_stochastic"
        new = (mixed + y).to(y.dtype)
        if self.observe is not None:
            self.observe(self.weights(), mixed, y, new)
        return [new, *(remembered if matrix else history)][: self.max_history]

    @property
    def mixing_states(self) -> range:
        """Ages of the states that this connection was built for."""
        return range(1 if self.mixing.logits is None else len(self.mixing.logits))

    def weights(self) -> Tensor:
        """Weights of the states [h], newest first; zero for pruned ones."""
        found = torch.zeros(len(self.mixing_states))
        if self.mixing.logits is None:
            return found + 1
        logits = self._logits(noise=False)
        chosen = self.mixing.matrix(logits)[0] if logits.dim() == 2 else self.mixing.simplex(logits)
        return chosen if logits.dim() == 2 else found.to(chosen).index_copy(0, self._index(), chosen)

    @torch.no_grad()
    def prune(self, threshold: float) -> int:
        """Stop mixing states (never the newest) whose weight is below `threshold`; returns how many."""
        if self.mixing.variant.constraint == "doubly_stochastic" and self.mixing.logits is not None:
            raise ValueError("a doubly stochastic matrix has no state to leave out; type constraint='simplex'")
        weights = self.weights().tolist()
        kept = tuple(age for age in self.kept if age == 0 or weights[age] >= threshold)
        gone, self.kept = len(self.kept) - len(kept), kept
        return gone

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.kept)

    def set_extra_state(self, state: Tensor) -> None:
        self.kept = tuple(state.tolist())

    def _mixed(self, history: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        if self.mixing.logits is None or len(self.kept) == 1:
            return history[0], history
        if len(history) != len(self.mixing_states):
            raise ValueError(
                f"a connection for {len(self.mixing_states)} states got {len(history)}; layer_index is the number of "
                "connections before it, and every call starts with the history [x]"
            )
        logits = self._logits(noise=self.stochastic and self.training)
        return self.mixing.mix(logits, history if logits.dim() == 2 else [history[age] for age in self.kept])

    def _logits(self, noise: bool) -> Tensor:
        logits: Tensor = self.mixing.logits  # type: ignore[assignment]
        if logits.dim() == 1 and len(self.kept) < len(logits):
            logits = logits.index_select(0, self._index())
        if noise:
            logits = logits - torch.empty_like(logits).exponential_().log()
        return logits / self.temperature

    def _index(self) -> Tensor:
        return torch.tensor(self.kept, device=self.mixing.logits.device)  # type: ignore[union-attr]

    def _fitted(self, age: int, state: Tensor, y: Tensor) -> Tensor:
        key = str(age)
        if key in self.projections:
            return self.projections[key](state)
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
    - `checkpoint=True` keeps only the states and computes each module again in the backward pass.
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
        example: Tensor | None = None,
        **keys: Any,
    ):
        super().__init__()
        if mode not in ("mhc", "hc", "residual"):
            raise ValueError(f"mode={mode!r} is not one of mhc, hc, residual; streams are HyperSequential")
        if mode != "mhc":
            max_history, constraint = (max_history if mode == "hc" else 1), "simplex"
        self.checkpoint = checkpoint
        branches = list(modules)
        along = shapes_along(branches, shapes, example)
        self.connections = nn.ModuleList()
        for index, branch in enumerate(branches):
            first = max(0, index + 1 - max_history)
            between = None if along is None else [*along[first : index + 1][::-1], along[index + 1]]
            self.connections.append(HistoryConnection(branch, index, max_history, constraint, shapes=between, **keys))

    def forward(self, x: Tensor) -> Tensor:
        steps: list[nn.Module] = list(self.connections)
        return in_blocks(_run, steps, 1 if self.checkpoint else None, x)[0]

    def prune(self, threshold: float) -> int:
        """Prune every connection; how many states went."""
        return sum(one.prune(threshold) for one in self.connections)  # type: ignore[operator]


def _run(steps: Sequence[nn.Module], *history: Tensor) -> tuple[Tensor, ...]:
    states: Sequence[Tensor] = history
    for connection in steps:
        states = connection(states)
    return tuple(states)


def _projections(shapes: Sequence[Shape] | None, count: int, constraint: str) -> nn.ModuleDict:
    """By age: what brings a state of another shape to that of the output."""
    if shapes is None:
        return nn.ModuleDict()
    if len(shapes) != count + 1:
        raise ValueError(f"shapes are those of {count} states and of the output, {count + 1} in all; got {len(shapes)}")
    *before, after = shapes
    made = {str(age): projection(shape, after) for age, shape in enumerate(before) if tuple(shape) != tuple(after)}
    if made and constraint == "doubly_stochastic" and count > 1:
        raise ValueError(
            f"constraint='doubly_stochastic' mixes what is remembered, which needs one shape; got {list(shapes)}. "
            "Type constraint='simplex' or 'identity'"
        )
    return nn.ModuleDict(made)
