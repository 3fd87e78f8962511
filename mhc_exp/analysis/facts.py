"""What a run directory says about its run beside the rows: run.json and status.json in one mapping."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_facts(run_dir: str | Path) -> dict[str, Any]:
    """run.json overlaid with status.json; a missing or damaged file contributes nothing."""
    facts: dict[str, Any] = {}
    for name in ("run.json", "status.json"):
        try:
            content = json.loads((Path(run_dir) / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict):
            facts.update(content)
    return facts


def number(facts: dict[str, Any], name: str) -> float | None:
    """`facts[name]` if it is a number."""
    value = facts.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
