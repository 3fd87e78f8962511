"""What tests of the configuration share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def nodes(mapping: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in mapping.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from nodes(value, (*path, key))
