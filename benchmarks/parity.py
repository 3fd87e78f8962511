"""How far numpy, torch and MLX are apart for every wiring of the parity tests; prints a Markdown table.

python benchmarks/parity.py             # about a minute on one core
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "parity"))

import cases
from test_curves import curve
from test_wirings import in_double, reference_loss


def gradient_error(found: dict[str, np.ndarray], exact: dict[str, np.ndarray]) -> float:
    """Largest error of an entry relative to the norm of its parameter's gradient (or 1e-3 of the whole, if larger)."""
    total = np.sqrt(sum((gradient**2).sum() for gradient in exact.values()))
    return max(
        float(np.abs(found[name] - gradient).max() / max(np.linalg.norm(gradient), 1e-3 * total))
        for name, gradient in exact.items()
    )


def main() -> None:
    """One row per wiring: perturbed weights for loss and gradients, initial weights for the curve."""
    print(
        "| wiring | loss: torch - numpy | loss: MLX - numpy | gradient: torch | gradient: MLX | 20 steps: torch - MLX |"
    )
    print("|---|---|---|---|---|---|")
    for name, overrides in cases.WIRINGS.items():
        config = cases.tiny(overrides)
        values, batch = cases.perturbed(config), cases.batch()
        expected = reference_loss(config, values, batch)
        exact = in_double(config, values).gradients(batch)
        cells = [name]
        trainers = {key: cases.with_weights(make(config), values) for key, make in cases.TRAINERS.items()}
        cells += [f"{abs(trainer.evaluate([batch]).loss - expected) / expected:.0e}" for trainer in trainers.values()]
        cells += [f"{gradient_error(trainer.gradients(batch), exact):.0e}" for trainer in trainers.values()]
        curves = [curve(make(config))[:, 0] for make in cases.TRAINERS.values()]
        cells.append(f"{np.abs(curves[0] - curves[1]).max():.0e}")
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
