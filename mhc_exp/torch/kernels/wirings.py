"""Which wirings the native tier computes; `python -m` this module prints the table of docs/performance.md."""

from __future__ import annotations

from mhc_exp.config import vocabulary
from mhc_exp.config.compose import compose
from mhc_exp.topology import families
from mhc_exp.torch.kernels.choice import description

NONE = "nothing; these have no tier but eager"


def table() -> str:
    """One line per part of the work that the kernels do, with the wirings of conf/variant it is done for."""
    found: dict[str, dict[str, list[str]]] = {}
    for name in vocabulary.options("variant"):
        variant = compose([f"variant={name}"]).variant
        connection = families.connection(variant)
        computed = NONE if connection is None else description(connection)
        found.setdefault(computed, {}).setdefault(variant.family, []).append(f"`{name}`")
    lines = ["| native computes | wirings, by family |", "| --- | --- |"]
    for computed in sorted(found, key=lambda text: (text == NONE, ";" in text, text)):
        by_family = (f"{family}: {', '.join(names)}" for family, names in sorted(found[computed].items()))
        lines.append(f"| {computed} | {'; '.join(by_family)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
