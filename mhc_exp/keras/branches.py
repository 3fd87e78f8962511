"""What a connection wraps: any Keras layer, built, called and saved with it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from mhc_exp.keras.framework import Layer, Shape, Tensor, keras

LAYER_KEYS = frozenset(("name", "dtype", "trainable", "activity_regularizer", "autocast"))
"""Keywords of every Keras layer; any other is a key of the variant."""


def checked(branch: Any) -> Any:
    """`branch` if it is a layer. Raises TypeError."""
    if not isinstance(branch, Layer):
        raise TypeError(
            f"a branch is a Keras layer or model, got {type(branch).__name__}; wrap a function as "
            "keras.layers.Lambda(f), and several layers as keras.Sequential([...])"
        )
    return branch


def separated(keys: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(keywords of every Keras layer, the others)."""
    own = {name: value for name, value in keys.items() if name in LAYER_KEYS}
    return own, {name: value for name, value in keys.items() if name not in LAYER_KEYS}


def build(branch: Any, shape: Shape) -> None:
    """Make the weights of a branch that the shape of its input determines; others are made by the first call."""
    if branch.built or type(branch).build is Layer.build:
        return
    needed = [one for one in inspect.signature(branch.build).parameters.values() if one.default is one.empty]
    if len(needed) == 1:
        branch.build(shape)


def outcome(branch: Any, shape: Shape, dtype: str, *args: Any, **keys: Any) -> tuple[Any, list[Any], bool]:
    """Of a call on an input of this shape: its first output (without values), the others, and whether it is a tuple."""
    read = keras.KerasTensor(shape, dtype=dtype)
    return parts(branch.compute_output_spec(read, *args, **keys) if branch.built else branch(read, *args, **keys))


def parts(output: Any) -> tuple[Any, list[Any], bool]:
    """What a branch returned: first output, the others, and whether it is a tuple."""
    if isinstance(output, tuple | list):
        return output[0], list(output[1:]), True
    return output, [], False


def masked(branch: Any, mask: Tensor | None) -> dict[str, Tensor]:
    """The keyword `mask` for a branch that takes one."""
    takes = mask is not None and "mask" in inspect.signature(branch.call).parameters
    return {"mask": mask} if takes else {}


def saved(branch: Any) -> dict[str, Any]:
    """For `get_config`."""
    return keras.saving.serialize_keras_object(branch)


def loaded(config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None) -> Any:
    """From what `saved` gave."""
    return keras.saving.deserialize_keras_object(config, custom_objects=custom_objects)
