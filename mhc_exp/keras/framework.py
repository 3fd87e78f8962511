"""Keras as this room uses it, imported in one place: what is missing is said here."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

try:
    keras: Any = importlib.import_module("keras")  # `import keras` would be this room to a type checker
except ModuleNotFoundError as error:
    if error.name == "keras":
        said = "mhc_exp.keras needs the package keras, which is not installed; type: pip install 'mhc-exp[keras]'"
    else:
        said = (
            f"Keras was asked to compute with a backend that is not installed ({error}); before Python starts, type "
            "KERAS_BACKEND=torch, jax or tensorflow, whichever is installed"
        )
    raise ImportError(said, name=error.name) from error

Layer = keras.layers.Layer
ops = keras.ops
registered = keras.saving.register_keras_serializable(package="mhc_exp")
"""Class decorator: a saved model finds the class by its name."""

Tensor = Any
"""A tensor of the backend that Keras runs on, or a keras.KerasTensor of the functional API."""
Shape = tuple[int | None, ...]
"""With None for an axis that is not known yet."""


def precision(x: Tensor) -> str:
    """Name of the dtype of x: `float32`."""
    return keras.backend.standardize_dtype(x.dtype)


def at_least_single(x: Tensor) -> Tensor:
    """float32 for half precisions, x itself otherwise."""
    return ops.cast(x, "float32") if precision(x) in ("float16", "bfloat16") else x


def repeated(step: Callable[[Any], Any], state: Any, times: int) -> Any:
    """`step` applied `times` times, in a loop of which a compiler sees the body once: XLA takes seconds for each
    Sinkhorn of 20 iterations written out.
    """
    if keras.backend.backend() == "tensorflow":  # there XLA differentiates loops with a bound, and JAX only others
        counted = ops.while_loop(
            lambda done, _: done < times, lambda done, now: (done + 1, step(now)), (0, state), maximum_iterations=times
        )
        return counted[1]
    return ops.fori_loop(0, times, lambda _, now: step(now), state)
