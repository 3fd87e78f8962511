"""Constants of Newton's method for the limit of Sinkhorn-Knopp, the same for the specification and both backends."""

from __future__ import annotations

WARMEST_RANGE = 4.0
"""Logits [S, S] that are farther apart are divided by a temperature that brings them to this range first."""

FLOOR, TOLERANCE = 64.0, 4.0
"""In units of the rounding of a precision: what the Hessian is raised to, and the error of a sum, per stream, at which
a matrix is done. Couplings below the floor are rounding, and steps along them would go anywhere."""


def steps_needed(streams: int) -> int:
    """Newton steps after which a matrix of this size is done in single precision, whatever its logits.

    Up to 4 streams 17 were enough for all that tests/unit/test_newton.py tries (spreads up to 200, ties, triangles),
    for 8 streams 22 and for 64 streams 26; logits of usual size need 3 to 6.
    """
    return 20 if streams <= 4 else 32
