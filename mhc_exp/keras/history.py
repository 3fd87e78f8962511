"""Mixing of the last H states around any Keras layer: x_(l+1) = sum_k a_k x_(l-k) + F(x_l).

A history is a list of tensors, newest first, that belongs to one call: nothing is detached, nothing is kept. The mixing
is the laboratory's (family `history`); its specification is mhc_exp.topology.reference.history.mixing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from mhc_exp.config.standalone import history_variant
from mhc_exp.keras import branches
from mhc_exp.keras.charts import CHARTS
from mhc_exp.keras.framework import Layer, Shape, Tensor, at_least_single, keras, ops, registered
from mhc_exp.keras.layer import weight
from mhc_exp.topology.history.mixing import sinkhorn, states, values

Constraint = Literal["simplex", "identity", "doubly_stochastic"]


@registered
class HistoryConnection(Layer):
    """One step: from the history [x_l, x_(l-1), ...] to [x_(l+1), x_l, ...], at most `max_history` long.

    - `branch`: F; further arguments go to it, and have to have defaults.
    - `layer_index`: how many steps came before, hence how many states there are to mix.
    - `constraint`: `simplex`, a softmax; `identity`, a softmax of which the newest state gets at least `floor`;
      `doubly_stochastic`, a matrix that also mixes what is remembered.
    - `newest`: weight of the newest state at the start; the others share the rest.
    - `temperature` divides the logits.
    - `gate=True`: the mixed history times 2 sigmoid(g), g learned from 0.

    A state whose last axis is not that of F's output goes through a projection, made when the layer is built.
    """

    def __init__(
        self,
        branch: Any,
        layer_index: int = 0,
        max_history: int = 4,
        constraint: Constraint = "simplex",
        *,
        newest: float = 0.98,
        floor: float = 0.1,
        iterations: int = 20,
        temperature: float = 1.0,
        gate: bool = False,
        **keys: Any,
    ):
        spec = history_variant(max_history, constraint, newest, floor, iterations)
        super().__init__(**keys)
        self.branch, self.layer_index, self.variant = branches.checked(branch), layer_index, spec
        self.temperature, self.gated = temperature, gate
        self.choices = {
            "layer_index": layer_index,
            "max_history": max_history,
            "constraint": constraint,
            "newest": newest,
            "floor": floor,
            "iterations": iterations,
            "temperature": temperature,
            "gate": gate,
        }
        """Arguments, for `get_config`."""
        self.count = states(spec, layer_index // 2 + 1)[layer_index]
        """States that are mixed."""
        self.logits = self.gate = None
        self.projections: dict[str, Any] = {}
        """By age: what brings a state of another width to that of the output."""
        self.supports_masking = True

    def build(self, history_shape: Sequence[Shape]) -> None:
        shapes = self._checked(history_shape)
        branches.build(self.branch, shapes[0])
        output = tuple(branches.outcome(self.branch, shapes[0], self.compute_dtype)[0].shape)
        start = values(self.variant, 1, self.layer_index // 2 + 1, 0)
        logits = start.get(f"topology.connections.{self.layer_index}.logits")
        if logits is not None:
            self.logits = weight(self, "logits", np.asarray(logits * self.temperature, np.float32))
        if self.gated:
            self.gate = weight(self, "gate", np.zeros((), np.float32))
        for age, shape in enumerate(shapes[: self.count]):
            if shape != output:
                self.projections[str(age)] = self._projection(age, shape, output)

    def call(self, history: Sequence[Tensor], *args: Any, **kwargs: Any) -> Any:
        """[x_l, x_(l-1), ...] -> [x_(l+1), x_l, ...]; (that, *rest) if the branch returns a tuple."""
        self._checked([state.shape for state in history])
        y, rest, several = branches.parts(self.branch(history[0], *args, **kwargs))
        mixed, remembered = self._mixed(history)
        if self.gate is not None:
            mixed = mixed * (2 * ops.sigmoid(self.gate))
        following = [ops.cast(mixed + at_least_single(y), history[0].dtype), *remembered][: self.variant.window]
        return (following, *rest) if several else following

    def mixing_weights(self) -> Tensor:
        """Of the states, newest first: [h], or doubly stochastic [h, h] whose first row makes the next state."""
        if self.logits is None:
            return ops.ones(1)
        logits = ops.convert_to_tensor(self.logits) / self.temperature
        if self.square:
            return CHARTS["sinkhorn"](ops.reshape(logits, (-1, 1)), self.count, sinkhorn(self.variant))[:, :, 0]
        weights = ops.softmax(logits)
        if self.variant.constraint == "identity_preserving":
            weights = (1 - self.variant.floor) * weights
            weights = ops.concatenate([weights[:1] + self.variant.floor, weights[1:]], axis=0)
        return weights

    def _mixed(self, history: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        """The next state before F is added, in float32 at least, and what is remembered behind it."""
        present = [self.projections.get(str(age), _same)(state) for age, state in enumerate(history[: self.count])]
        present = [at_least_single(state) for state in present]
        if self.logits is None:
            return present[0], history
        weights = self.mixing_weights()
        if not self.square:
            return _weighted_sum(weights, present), history
        rows = [_weighted_sum(weights[row], present) for row in range(self.count)]
        return rows[0], [ops.cast(row, history[0].dtype) for row in rows]

    @property
    def square(self) -> bool:
        """Whether a matrix also mixes what is remembered."""
        return self.variant.constraint == "doubly_stochastic"

    def compute_output_spec(self, history: Sequence[Tensor], *args: Any, **kwargs: Any) -> Any:
        shapes = self._checked([state.shape for state in history])
        y, rest, several = branches.outcome(self.branch, shapes[0], self.compute_dtype, *args, **kwargs)
        following = [tuple(y.shape), *shapes][: self.variant.window]
        following = [keras.KerasTensor(shape, dtype=self.compute_dtype) for shape in following]
        return (following, *rest) if several else following

    def compute_output_shape(self, history_shape: Sequence[Shape]) -> Any:
        spec = self.compute_output_spec([keras.KerasTensor(shape) for shape in self._checked(history_shape)])
        return keras.tree.map_structure(lambda one: one.shape, spec)

    def compute_mask(self, history: Sequence[Tensor], previous_mask: Sequence[Tensor | None]) -> list[Tensor | None]:
        return [previous_mask[0], *previous_mask][: self.variant.window]

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"branch": branches.saved(self.branch)} | self.choices

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Any:
        return cls(**config | {"branch": branches.loaded(config["branch"], custom_objects)})

    def _checked(self, shapes: Sequence[Any]) -> list[Shape]:
        """Shapes of the history. Raises ValueError."""
        if any(one is None or isinstance(one, int) for one in shapes):
            raise ValueError(f"a history is a list of states, newest first, got one of shape {list(shapes)}; type [x]")
        if self.count > 1 and len(shapes) < self.count:
            raise ValueError(
                f"a connection for {self.count} states got {len(shapes)}; layer_index is the number of connections "
                "before it, and every call starts with the history [x]"
            )
        return [tuple(one) for one in shapes]

    def _projection(self, age: int, before: Shape, after: Shape) -> Any:
        """A linear map of the last axis, built."""
        if len(before) != len(after) or before[:-1] != after[:-1]:
            raise ValueError(
                f"no projection takes a state {list(before)} to {list(after)}: only the last axis may change"
            )
        if self.square and self.count > 1:
            raise ValueError(
                f"constraint='doubly_stochastic' mixes what is remembered, which needs one shape; got {list(before)} "
                f"and {list(after)}. Type constraint='simplex' or 'identity'"
            )
        made = keras.layers.Dense(after[-1], use_bias=False, dtype=self.dtype_policy, name=f"projection_{age}")
        made.build(before)
        return made


def _same(state: Tensor) -> Tensor:
    return state


def _weighted_sum(weights: Tensor, states: Sequence[Tensor]) -> Tensor:
    """sum_j w_j x_j."""
    total = weights[0] * states[0]
    for place, state in enumerate(states[1:], 1):
        total = total + weights[place] * state
    return total
