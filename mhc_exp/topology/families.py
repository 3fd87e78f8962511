"""What the body, the loop and the tests may ask of any wiring, answered by the module of its family."""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any

import numpy as np

from mhc_exp.config.variants import Streams, Variant
from mhc_exp.topology import gated, looped, residual, segments, sparse, streams
from mhc_exp.topology.body_scale import BodyScale
from mhc_exp.topology.history import attnres, deep_cross_attention, denseformer, mixing, muddformer, value_residual
from mhc_exp.topology.history.reads import Read
from mhc_exp.topology.learning import Parts

FAMILIES: dict[str, ModuleType] = {
    "residual": residual,
    "streams": streams,
    "looped": looped,
    "gated": gated,
    "segments": segments,
    "sparse": sparse,
    "history": mixing,
    "denseformer": denseformer,
    "attnres": attnres,
    "muddformer": muddformer,
    "value_residual": value_residual,
    "deep_cross_attention": deep_cross_attention,
}
"""Value of `variant.family` -> the module that answers for it: the functions below, some of them if it has any."""


def values(variant: Variant, width: int, depth: int, seed: int) -> dict[str, np.ndarray]:
    """Initial float32 values of all parameters of the wiring, by name (`topology.` in front)."""
    return FAMILIES[variant.family].values(variant, width, depth, seed)


def flops_per_token(variant: Variant, width: int, depth: int) -> float:
    """Forward FLOPs per token of the wiring's own arithmetic; what blocks cost that are called again is not in it."""
    return FAMILIES[variant.family].flops_per_token(variant, width, depth)


def passes(variant: Variant, depth: int) -> list[int]:
    """How often each of the `depth` blocks is called in one forward pass: once, unless the wiring repeats it."""
    return _optional(variant, "passes", [1] * depth, depth)


def kept(variant: Variant, depth: int) -> float:
    """Tensors [B, T, C] that the wiring carries from one sublayer to the next (the largest number, for a history)."""
    return FAMILIES[variant.family].kept(variant, depth)


def streams_of(variant: Variant) -> int | None:
    """Streams (or segments) whose coefficients the wiring reports to an observer; None if it keeps one state."""
    return _optional(variant, "streams_of", None)


def connection(variant: Variant) -> Streams | None:
    """What each connection is, in the words of the stream family; None if the wiring is not made of those."""
    return _optional(variant, "connection", None)


def wrapped(variant: Variant, depth: int) -> list[str]:
    """What each of these connections wraps, in the order in which they are called (`attention 0`, `loop 2`)."""
    return _optional(variant, "wrapped", [], depth)


def state_shape(variant: Variant, width: int) -> tuple[int, int]:
    """(S, W) of a state [*, S, W]: W is C, unless the wiring divides the width into segments."""
    return streams_of(variant) or 1, width // getattr(variant, "fractions", 1)


def aligned(variant: Variant) -> bool:
    """Whether all streams hold the same channels, so that their cosine means something; segments do not."""
    return _optional(variant, "aligned", True)


def reads(variant: Variant, depth: int) -> list[Read] | None:
    """The reads whose weights the wiring reports to an observer; None if it keeps no earlier outputs."""
    return _optional(variant, "reads", None, depth)


def parts(variant: Variant) -> Parts | None:
    """The parameters of a connection that make its read, write and mix, and others; None: all of them are a read."""
    return _optional(variant, "parts", None)


def scale_entries(variant: Variant) -> dict[str, int | slice]:
    """Entries of a connection's parameter `scale` (alpha) of each part that has a learned scale; empty without any."""
    return _optional(variant, "scale_entries", {})


def mix_rows(variant: Variant, names: list[str]) -> list[tuple[str, slice]]:
    """(parameter, rows) of everything that belongs to H_res, for mix/grad_norm; empty if there is nothing to learn."""
    rows = dict((parts(variant) or {}).get("mix", ()))
    own = [(name, re.sub(r"^topology\.connections\.\d+\.", "", name)) for name in names]
    return [(name, rows[leaf]) for name, leaf in own if leaf in rows and leaf != name]


def equals_prenorm_at_step_0(variant: Variant) -> bool:
    """Whether the untrained model computes the pre-norm transformer's function (to rounding and norm eps)."""
    return FAMILIES[variant.family].equals_prenorm_at_step_0(variant)


def preserves_the_function_at_step_0(variant: Variant) -> bool:
    """Whether wrapping the branches of any residual network, norms and all, leaves its function as it is."""
    return _optional(variant, "preserves_the_function_at_step_0", False)


def body_scale(variant: Variant, depth: int) -> BodyScale:
    """Factors that the wiring's paper puts on the body's initial matrices."""
    return _optional(variant, "body_scale", BodyScale(), depth)


def _optional(variant: Variant, question: str, default: Any, *arguments: object) -> Any:
    """The answer of the family's module, or `default` if it has none."""
    answer = getattr(FAMILIES[variant.family], question, None)
    return answer(variant, *arguments) if answer else default
