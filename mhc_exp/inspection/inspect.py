"""`mhc-exp inspect RUN`: what the wiring of a checkpoint has learned, as tables and pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mhc_exp.analysis.sources import NothingThere
from mhc_exp.analysis.terminal import RUN, command_parser
from mhc_exp.config.history_variants import HISTORY_FAMILIES
from mhc_exp.inspection import history, pictures, published, table
from mhc_exp.inspection.changes import positive
from mhc_exp.inspection.measured import measure
from mhc_exp.inspection.opened import open_run


def main(arguments: Sequence[str]) -> int:
    """`arguments` follow the word; the exit code. Raises NothingThere."""
    parser = command_parser("inspect", "What a checkpoint's H_res, reads and writes have become, per connection.")
    parser.add_argument("run", metavar="RUN", help=RUN)
    parser.add_argument("--checkpoint", metavar="STEP", type=int, help="default: the newest one")
    parser.add_argument("--out", metavar="DIR", type=Path, help="where the pictures go; default: RUN/plots/inspect")
    group = parser.add_argument_group("a checkpoint of transformers in place of RUN (its directory)")
    group.add_argument(
        "--text", metavar="FILE", type=Path, help="run the model on this text, not only read its weights"
    )
    group.add_argument("--bytes", action="store_true", help="the text's bytes are the tokens; default: its tokenizer's")
    group.add_argument("--sequences", metavar="N", type=positive, default=8, help="how many; default: %(default)s")
    group.add_argument("--length", metavar="T", type=positive, default=128, help="tokens of each; default: %(default)s")
    group.add_argument("--device", default="cpu", help="of PyTorch; default: %(default)s")
    given = parser.parse_args(arguments)
    if published.is_checkpoint(given.run):
        return _said(published.inspect(given))
    if given.text:
        raise NothingThere(
            f"--text is for checkpoints of transformers, and {given.run} has no config.json; leave it out"
        )
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
    return _said(written)


def _said(written: Sequence[Path]) -> int:
    print("\n" + "\n".join(map(os.path.relpath, written)))
    return 0
