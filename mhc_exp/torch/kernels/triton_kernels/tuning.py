"""Block sizes of the kernels: timed on the GPU for every number of streams, width and precision, and kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import triton  # pyright: ignore[reportMissingImports]

MANY = 4096
"""Tokens from which a kernel is timed; below, launching is what costs, and the first choice is taken."""

INTERPRETED: bool = triton.knobs.runtime.interpret
"""Whether Triton's interpreter runs the kernels on the CPU (TRITON_INTERPRET=1)."""


def tuned(*choices: tuple[int, int, int]) -> Callable[[Any], Any]:
    """Decorator of a kernel with arguments S, C and `many`: choices are (BN tokens, BC channels, warps) of a program.

    Sizes decide the order of sums, so what was found is kept in Triton's cache: the same bits in the next process.
    """
    configs = [
        triton.Config({"BN": tokens, "BC": width, "enable_fp_fusion": True}, num_warps=warps)
        for tokens, width, warps in choices
    ]
    return triton.autotune(
        configs[:1] if INTERPRETED else configs,
        key=["S", "C", "many"],
        prune_configs_by={"early_config_prune": _worth_timing},
        cache_results=True,
    )


def _worth_timing(configs: Sequence[Any], arguments: dict[str, Any], **_: Any) -> Sequence[Any]:
    return configs if arguments["many"] else configs[:1]


def blocks(tokens: int) -> Callable[[dict[str, Any]], tuple[int]]:
    """Grid of one program per BN tokens."""
    return lambda sizes: (triton.cdiv(tokens, sizes["BN"]),)


def tiles(tokens: int, width: int) -> Callable[[dict[str, Any]], tuple[int, int]]:
    """Grid of one program per BN tokens and BC channels."""
    return lambda sizes: (triton.cdiv(tokens, sizes["BN"]), triton.cdiv(width, sizes["BC"]))
