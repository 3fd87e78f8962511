"""Who looks how: one colour, dash and marker per wiring, the same in every picture.

Okabe and Ito's colours (jfly.uni-koeln.de/color) survive red-green blindness. In grayscale the wirings compared most
(black, blue, orange) differ in lightness; the others are told apart by dash, marker and the label at their end.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

BLACK, BLUE, ORANGE, VERMILLION, GREEN = "#000000", "#0072B2", "#E69F00", "#D55E00", "#009E73"
SKY, PURPLE = "#56B4E9", "#CC79A7"
GRAY = "#6B6B6B"

SOLID, DASHED, DOTTED, DASHDOT = "-", (0, (5, 2)), (0, (1.2, 1.6)), (0, (6, 2, 1.2, 2))
Dash = str | tuple[float, tuple[float, ...]]


class Look(NamedTuple):
    """How a wiring is drawn."""

    color: str
    dash: Dash
    marker: str


KNOWN = {
    "baseline": Look(BLACK, SOLID, "o"),
    "mhc": Look(BLUE, SOLID, "o"),
    "hc": Look(ORANGE, DASHED, "s"),
    "exp_hc": Look(VERMILLION, DASHDOT, "^"),
    "identity_hc": Look(GREEN, DASHED, "D"),
    "unmixed_hc": Look(SKY, DASHDOT, "v"),
    "deepseek_v4": Look(PURPLE, SOLID, "P"),
    "demo_hc": Look(ORANGE, DOTTED, "<"),
    "demo_mhc": Look(BLUE, DOTTED, ">"),
    "none": Look(GRAY, DOTTED, "X"),
    # one stream: crosses
    "post_norm": Look(VERMILLION, DASHED, "X"),
    "rezero": Look(GREEN, DASHED, "X"),
    "layer_scale": Look(SKY, DASHED, "X"),
    "deepnorm": Look(PURPLE, DASHED, "X"),
    "laurel": Look(ORANGE, DASHED, "X"),
    # other charts of H_res: mHC's circle, dashed
    "mhc_lite": Look(BLUE, DASHED, "o"),
    "kromhc": Look(SKY, DASHED, "o"),
    "ohc": Look(VERMILLION, DASHED, "o"),
    "go_mhc": Look(GREEN, DASHED, "o"),
    "tbp_mhc": Look(PURPLE, DASHED, "o"),
    "c_mhc": Look(ORANGE, DASHED, "o"),
    # other structures of the streams: squares and pluses
    "deepseek_v41": Look(PURPLE, DASHED, "P"),
    "mhc_lss": Look(BLUE, SOLID, "s"),
    "gated_residual": Look(VERMILLION, SOLID, "s"),
    "frac": Look(SKY, SOLID, "s"),
    "vwn": Look(GREEN, SOLID, "s"),
    "xhc": Look(ORANGE, SOLID, "s"),
    "hyperloop": Look(PURPLE, SOLID, "s"),
    # earlier outputs: stars, and pentagons for attention over depth
    "history": Look(GRAY, DASHDOT, "*"),
    "denseformer": Look(GREEN, DASHDOT, "*"),
    "muddformer": Look(PURPLE, DASHDOT, "*"),
    "value_residual": Look(SKY, DASHDOT, "*"),
    "deep_cross_attention": Look(ORANGE, DASHDOT, "*"),
    "attnres": Look(VERMILLION, SOLID, "p"),
    "block_attnres": Look(BLACK, DASHED, "p"),
    "mhar": Look(BLUE, DASHDOT, "p"),
}
_OTHERS = [
    Look(color, dash, marker)
    for dash, marker in ((SOLID, "o"), (DASHED, "s"), (DOTTED, "^"), (DASHDOT, "D"))
    for color in (VERMILLION, GREEN, SKY, PURPLE, ORANGE, BLUE, GRAY)
]


def looks(names: Iterable[str]) -> dict[str, Look]:
    """The look of each name: fixed for the variants of conf/, for any other the free one nearest to its hash, in a
    colour of its own while there is one.

    Another name keeps its look whatever it is compared with, unless two fall on a colour; beyond 28 they repeat.
    """
    names = sorted(set(names))
    found = {name: KNOWN[name] for name in names if name in KNOWN}
    free = [look for look in _OTHERS if look not in found.values()]
    for name in (name for name in names if name not in KNOWN):
        free = free or list(_OTHERS)
        wanted = zlib.crc32(name.encode()) % len(_OTHERS)
        taken = {look.color for look in found.values()}
        fresh = [look for look in free if look.color not in taken] or free
        look = min(fresh, key=lambda look: (_OTHERS.index(look) - wanted) % len(_OTHERS))
        free.remove(look)
        found[name] = look
    return found


def ink(color: str) -> tuple[float, float, float]:
    """`color` for text on white: as dark as a contrast of 4.5 : 1 asks for (WCAG 2)."""
    from matplotlib.colors import to_rgb

    rgb: Any = to_rgb(color)
    luminance = sum(weight * value**2.2 for weight, value in zip((0.2126, 0.7152, 0.0722), rgb, strict=True))
    scale = min(1.0, (0.17 / max(luminance, 1e-9)) ** (1 / 2.2))
    return (rgb[0] * scale, rgb[1] * scale, rgb[2] * scale)
