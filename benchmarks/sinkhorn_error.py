"""How far truncated Sinkhorn is from doubly stochastic, and how far apart its conventions; prints a table.

python benchmarks/sinkhorn_error.py     # seconds
"""

from __future__ import annotations

import numpy as np

from mhc_exp.topology.reference import sinkhorn

MATRICES, STREAMS, ITERATIONS, SEED = 4096, 4, 20, 0


def main() -> None:
    """One row per standard deviation of normal logits; float64, largest value over all matrices."""
    print(f"{MATRICES} matrices {STREAMS} x {STREAMS}, normal logits, {ITERATIONS} iterations, float64, seed {SEED}\n")
    print("| logit std | row error, rows last | column error, rows last | median column error | rows last - DeepSeek |")
    print("|---|---|---|---|---|")
    normal = np.random.default_rng(SEED).normal(size=(MATRICES, STREAMS, STREAMS))
    for spread in (0.5, 1, 2, 4, 8):
        paper = sinkhorn(spread * normal, ITERATIONS)
        deepseek = sinkhorn(spread * normal, ITERATIONS, order="columns_last", start="softmax", eps=1e-6)
        columns = np.abs(paper.sum(axis=-2) - 1).max(axis=-1)
        rows = np.abs(paper.sum(axis=-1) - 1).max()
        apart = np.abs(paper - deepseek).max()
        print(f"| {spread} | {rows:.0e} | {columns.max():.1e} | {np.median(columns):.1e} | {apart:.1e} |")


if __name__ == "__main__":
    main()
