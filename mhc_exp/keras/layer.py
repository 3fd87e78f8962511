"""What the layers of a stream variant share: its choices, its weights and its configuration.

Axes: * any leading axes, S streams, C width, which is last. Streams are [*, S, C].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from mhc_exp.config import named
from mhc_exp.config.standalone import stream_variant
from mhc_exp.config.variants import Variant
from mhc_exp.keras import branches
from mhc_exp.keras.framework import Layer, Shape, Tensor, ops


class StreamLayer(Layer):
    """A Keras layer that belongs to a stream variant. Raises ConfigError for a variant that cannot stand alone."""

    def __init__(
        self,
        streams: int | None,
        variant: str | Variant,
        layers: int | None,
        seed: int,
        options: Mapping[str, Any] | None,
        keys: Mapping[str, Any],
    ):
        own, others = branches.separated(keys)
        spec = stream_variant(variant, streams, layers, dict(options or {}) | others)
        super().__init__(**own)
        self.variant, self.seed = spec, seed
        self.width: int | None = None
        """C, once the layer is built."""
        self.value_names: tuple[str, ...] = ()
        """Names of its weights in topology.layout."""
        self.supports_masking = True  # a mask [B, T] says as much of [B, T, S, C]

    def add_values(self, values: Mapping[str, np.ndarray], prefix: str) -> None:
        """Weights with these initial values; their names begin with `prefix`. They stay float32 where the model
        computes in half precision: rounded coefficients are not doubly stochastic.
        """
        self.value_names = tuple(name.removeprefix(prefix) for name in values)
        for name, value in zip(self.value_names, values.values(), strict=True):
            setattr(self, _attribute(name), weight(self, _attribute(name), value))

    @property
    def connection_weights(self) -> list[Any]:
        """The connection's own, without the branch's: what weight decay should leave alone."""
        return [getattr(self, _attribute(name)) for name in self.value_names]

    def parameters_by_name(self) -> dict[str, Tensor]:
        """Tensors by the names of topology.layout."""
        return {name: ops.convert_to_tensor(getattr(self, _attribute(name))) for name in self.value_names}

    def width_of(self, shape: Shape) -> int:
        """C of streams [*, S, C]. Raises ValueError."""
        count, width = self.variant.streams, shape[-1]
        if len(shape) < 3 or shape[-2] != count or width is None or self.width not in (None, width):
            wanted = self.width or "C"
            raise ValueError(
                f"a connection of {count} streams{'' if self.width is None else f' of width {wanted}'} needs "
                f"[*, {count}, {wanted}], got {list(shape)}; call expand_streams(x, {count}) once, before the first "
                "connection"
            )
        return width

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"variant": dataclasses.asdict(self.variant), "seed": self.seed}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Any:
        """Every key of the variant was saved, so it does not matter on which one they are laid."""
        found: dict[str, Any] = config | {"variant": named.variant("mhc", config["variant"])}
        for key in ("branch", "branches"):
            if key in found:
                found[key] = branches.loaded(found[key], custom_objects)
        return cls(**found)


def weight(layer: Any, name: str, value: np.ndarray) -> Any:
    """A weight of `layer` with this initial value, in float32 at least whatever its policy says."""
    return layer.add_weight(
        name=name,
        shape=value.shape,
        dtype="float64" if layer.variable_dtype == "float64" else "float32",
        autocast=False,
        initializer=lambda shape, dtype=None: ops.convert_to_tensor(value, dtype),
    )


def _attribute(name: str) -> str:
    """`norm.weight` as an attribute."""
    return name.replace(".", "_")
