"""What can be computed about a wiring at one size, for docs/variants.md: no framework, no training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mhc_exp.body.flops import body_flops_per_token, forward_flops_per_token
from mhc_exp.body.parameters import body_table
from mhc_exp.config.compose import compose
from mhc_exp.config.variants import Looped, Sparse, Streams, Variant
from mhc_exp.topology import families
from mhc_exp.topology.init import PRESETS

WIDTH, DEPTH, SEQUENCE, VOCABULARY = 768, 12, 1024, 50257
"""GPT-2's smallest size, at which counts are stated."""

LETTERS = {
    "streams": "n",
    "segments": "n",
    "fractions": "m",
    "active": "k",
    "fixed": "f",
    "bottleneck": "b",
    "window": "H",
    "loops": "r",
}
"""Key of a variant -> its letter in formulas; beside them C is the width, L the depth and s `mix.expansion`."""


@dataclass(frozen=True)
class Facts:
    """Of one wiring at the size above."""

    parameters: int
    """Parameters added to the body's."""
    parameters_share: float
    """Relative to the body's."""
    flops_share: float
    """Forward FLOPs per token added, relative to a body whose blocks are called once."""
    kept: float
    """Tensors [B, T, C] carried between sublayers, at most."""
    equals_prenorm: bool
    streams_differ: bool | None
    """Whether streams differ before any training; None if the wiring has no presets of streams."""


def facts(name: str) -> Facts:
    """What is computed about conf/variant/NAME.yaml."""
    size = [f"depth={DEPTH}", f"model.width={WIDTH}", "model.heads=12", f"model.seq_len={SEQUENCE}"]
    config = compose([f"variant={name}", *size])
    body = sum(int(np.prod(entry.shape)) for entry in body_table(config, VOCABULARY).values())
    added = count(name, WIDTH, DEPTH)
    once = body_flops_per_token(config, VOCABULARY, DEPTH)
    return Facts(
        parameters=added,
        parameters_share=added / body,
        flops_share=forward_flops_per_token(config, VOCABULARY) / once - 1,
        kept=families.kept(config.variant, DEPTH),
        equals_prenorm=families.equals_prenorm_at_step_0(config.variant),
        streams_differ=_streams_differ(config.variant),
    )


def _streams_differ(variant: Variant) -> bool | None:
    if not isinstance(variant, Streams | Looped | Sparse):
        return None
    return PRESETS[variant.init].separates or variant.expand == "learned_scale"


def sizes(variant: Variant, width: int, depth: int) -> dict[str, int]:
    """What the letters of a formula mean for this variant."""
    own = {letter: getattr(variant, key) for key, letter in LETTERS.items() if hasattr(variant, key)}
    if isinstance(variant, Streams | Looped | Sparse):
        own["s"] = variant.mix.expansion
    return {"C": width, "L": depth, **own}


def count(name: str, width: int, depth: int) -> int:
    """Parameters that conf/variant/NAME.yaml adds to a model of `depth` blocks."""
    values = families.values(compose([f"variant={name}"]).variant, width, depth, seed=0)
    return sum(value.size for value in values.values())
