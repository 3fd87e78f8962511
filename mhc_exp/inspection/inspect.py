"""`mhc-exp inspect RUN`: what the wiring of a checkpoint has learned, as tables and pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mhc_exp.analysis.terminal import RUN, command_parser
from mhc_exp.config.history_variants import HISTORY_FAMILIES
from mhc_exp.inspection import history, pictures, table
from mhc_exp.inspection.measured import measure
from mhc_exp.inspection.opened import open_run


def main(arguments: Sequence[str]) -> int:
    """`arguments` follow the word; the exit code. Raises NothingThere."""
    parser = command_parser("inspect", "What a checkpoint's H_res, reads and writes have become, per connection.")
    parser.add_argument("run", metavar="RUN", help=RUN)
    parser.add_argument("--checkpoint", metavar="STEP", type=int, help="default: the newest one")
    parser.add_argument("--out", metavar="DIR", type=Path, help="where the pictures go; default: RUN/plots/inspect")
    given = parser.parse_args(arguments)
    with open_run(given.run, given.checkpoint, histories=True) as opened:
        directory = given.out or opened.run.plots_path / "inspect"
        if opened.config.variant.family in HISTORY_FAMILIES:
            reads = history.measure(opened)
            print(history.text(reads), flush=True)
            written = history.draw(reads, directory)
        else:
            measured = measure(opened)
            print(table.text(measured), flush=True)
            written = pictures.draw(measured, directory)
    print("\n" + "\n".join(map(os.path.relpath, written)))
    return 0
