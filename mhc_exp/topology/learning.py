"""What the connections have learned and are asked to learn: scales, gradient norms, and their tangent part, in numpy.

Axes: K connections in order of depth, N tokens (1 if static), S streams. Which parameters make which part of a
connection is said by `topology.families.parts` and `topology.families.scale_entries`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

Parts = Mapping[str, Sequence[tuple[str, slice]]]
"""Part of a connection (read, write, mix, ...) -> its parameters: (name within the connection, rows)."""
CONNECTION = "topology.connections.{}."
"""Prefix of the parameters of connection number {}."""


def scales(
    parameters: Mapping[str, np.ndarray], connections: int, entries: Mapping[str, int | slice]
) -> dict[str, np.ndarray]:
    """Learned scales (alpha) of the dynamic coefficients, [K] for each part; empty if the wiring has none.

    `entries` are those of a part in the parameter `scale`. Where a part has several (vwn: one per coefficient) it is
    their mean. HC's read and mix share one scale (arXiv:2409.19606 eq. 10-13), which stands under both names.
    """
    found = [parameters.get(CONNECTION.format(index) + "scale") for index in range(connections)]
    own = [value.astype(np.float64) for value in found if value is not None]
    return {part: np.array([value[where].mean() for value in own]) for part, where in entries.items()} if own else {}


def gradient_norms(gradients: Mapping[str, np.ndarray], connections: int, parts: Parts | None) -> dict[str, np.ndarray]:
    """L2 norm of the gradient of what makes each part, [K] each: `read`, `write`, `mix` (H_pre, H_post, H_res), and
    `scale` or `router` where the wiring has them.

    A part without parameters in any connection is absent, and nan in a connection that has none. Without `parts` all
    parameters of a connection are its `read`.
    """
    norms: dict[str, np.ndarray] = {}
    for index in range(connections):
        prefix = CONNECTION.format(index)
        own = {name.removeprefix(prefix): value for name, value in gradients.items() if name.startswith(prefix)}
        for part, pieces in (parts or {"read": [(name, slice(None)) for name in own]}).items():
            if found := [own[name][rows] for name, rows in pieces if name in own]:
                norms.setdefault(part, np.full(connections, np.nan))[index] = total([_norm(one) for one in found])
    return norms


def total(norms: Sequence[float] | np.ndarray) -> float:
    """The norm of everything of which `norms` are the norms of pieces; nan stands for no piece."""
    return float(np.sqrt(np.nansum(np.square(norms))))


def tangent(gradient: np.ndarray) -> np.ndarray:
    """Projection of matrices [..., S, S] on those with zero row and column sums.

    These are the directions in which a doubly stochastic matrix in the interior of the Birkhoff polytope can move.
    """
    centred = gradient - gradient.mean(axis=-1, keepdims=True)
    return centred - centred.mean(axis=-2, keepdims=True)


def tangent_share(gradient: np.ndarray) -> np.ndarray:
    """[K]: norm of the tangent part of dL/dH_res [K, ..., S, S] over the norm of all of it; nan where that is zero.

    A gradient without any preference has (S - 1)/S, the root of (S-1)^2 tangent directions out of S^2.
    """
    gradient = gradient.astype(np.float64)
    axes = tuple(range(1, gradient.ndim))
    whole = np.sqrt((gradient**2).sum(axes))
    return np.sqrt((tangent(gradient) ** 2).sum(axes)) / np.where(whole > 0, whole, np.nan)


def _norm(array: np.ndarray) -> float:
    return float(np.sqrt((array.astype(np.float64) ** 2).sum()))
