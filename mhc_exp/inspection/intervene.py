"""`mhc-exp intervene RUN ...`: how much the held-out loss changes when the wiring of a checkpoint is changed."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mhc_exp.analysis.sources import NothingThere
from mhc_exp.analysis.terminal import RUN, columns_text, command_parser
from mhc_exp.inspection import changes
from mhc_exp.inspection.opened import Opened, open_run
from mhc_exp.topology import families
from mhc_exp.topology.interventions import Intervention
from mhc_exp.training.evaluation import columns
from mhc_exp.training.trainer import Evaluation

WINDOWS = 8
"""Windows of --scan."""
_WINDOW = "A:B, connections A up to but not including B, or one connection K; default: all"


def main(arguments: Sequence[str]) -> int:
    """`arguments` follow the word; the exit code. Raises NothingThere."""
    given = _parser().parse_args(arguments)
    if not given.changes and not given.scan:
        raise NothingThere("nothing to change; type at least one of --identity, --token-mean, --ablate 0, --scan, ...")
    with open_run(given.run, given.checkpoint) as opened:
        streams = opened.connection.streams
        count = len(families.wrapped(opened.config.variant, opened.config.depth))
        wanted = [*(given.changes or []), *(changes.scan(count, given.scan) if given.scan else [])]
        try:
            for change in wanted:
                change.check(streams, count)
        except ValueError as error:
            raise NothingThere(str(error)) from error
        opened.load()
        size = f"{count} connections, {streams} streams"
        print(f"{opened.title()}, on {opened.trainer.device}; {size}", flush=True)
        outcomes = [measure(opened, change) for change in [None, *wanted]]
        bits = (lambda nats, sign: _bits(opened, nats, sign)) if opened.task.bytes_per_token is not None else None
        print(outcomes_text(outcomes, "held-out batches", bits))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("intervene", "Change of the held-out loss when the wiring is changed; one line per option.")
    parser.add_argument("run", metavar="RUN", help=RUN)
    parser.add_argument("--checkpoint", metavar="STEP", type=int, help="default: the newest one")

    def option(name: str, read: Callable[[str], Intervention], metavar: str, words: str, **more: str) -> None:
        parser.add_argument(name, action="append", dest="changes", type=read, metavar=metavar, help=words, **more)  # type: ignore[arg-type]

    everywhere = {"nargs": "?", "const": ":"}
    option("--identity", changes.on_mix("identity"), "A:B", f"H_res = I. {_WINDOW}", **everywhere)
    option("--token-mean", changes.on_mix("token_mean"), "A:B", "H_res is its mean over tokens", **everywhere)
    option("--uniform", changes.on_mix("uniform"), "A:B", "H_res averages the streams", **everywhere)
    option("--ablate", changes.ablate, "STREAM[@A:B]", "this stream is emptied, not read and not written")
    option("--permute", changes.permute, "1,0,2,3[@A:B]", "streams change places after the connection")
    help_ = f"identity in N windows over depth, one after the other; default: {WINDOWS}"
    parser.add_argument("--scan", metavar="N", type=changes.positive, nargs="?", const=WINDOWS, help=help_)
    return parser


@dataclass(frozen=True)
class Outcome:
    """The loss under one change; of the unchanged model if that is None."""

    change: Intervention | None
    losses: np.ndarray
    """Mean nats per supervised token of each held-out batch."""
    tokens: np.ndarray
    """Supervised tokens of each of them."""

    @property
    def loss(self) -> float:
        return float(np.average(self.losses, weights=self.tokens))


def measure(opened: Opened, change: Intervention | None) -> Outcome:
    """The loss on every held-out batch of the run."""
    if change is None:
        found = [opened.trainer.evaluate([batch]) for batch in opened.batches]
    else:
        with opened.probe.intervened(change):
            found = [opened.trainer.evaluate([batch]) for batch in opened.batches]
    return Outcome(change, np.array([one.loss for one in found]), np.array([one.tokens for one in found]))


def standard_error(changed: Outcome, unchanged: Outcome) -> float:
    """Of the mean change over the held-out batches, which are paired; nan for a single batch."""
    difference = changed.losses - unchanged.losses
    return float(difference.std(ddof=1) / len(difference) ** 0.5) if len(difference) > 1 else float("nan")


def outcomes_text(outcomes: list[Outcome], what: str, bits: Callable[[float, str], str] | None = None) -> str:
    """A line per outcome, the unchanged model first; `what` are the batches, `bits` (nats, sign) -> bits per byte."""
    unchanged = outcomes[0]
    lines: list[list[str]] = [
        ["change", "connections", "loss", "change of it", "+- SE", *(["bits/byte"] if bits else [])]
    ]
    for outcome in outcomes:
        cells = [*changes.named(outcome.change), f"{outcome.loss:.4f}"]
        if outcome is unchanged:
            lines.append([*cells, "", "", *([bits(outcome.loss, "")] if bits else [])])
            continue
        change, error = outcome.loss - unchanged.loss, standard_error(outcome, unchanged)
        lines.append([*cells, f"{change:+.5f}", f"{error:.5f}", *([bits(change, "+")] if bits else [])])
    batches = f"{len(unchanged.losses)} {what}, {int(unchanged.tokens.sum())} tokens"
    note = f"nats per token on {batches}; SE: of the change, over these batches, not over seeds"
    return f"{columns_text(lines, right=range(2, len(lines[0])))}\n{note}"


def _bits(opened: Opened, nats: float, sign: str) -> str:
    bits = columns(Evaluation(nats, 0.0, 0), opened.task)["val/bits_per_byte"]
    return f"{bits:{sign}.5f}" if sign else f"{bits:.4f}"
