"""The checkpoints of a run: every byte against its hash, and whose they are."""

from __future__ import annotations

from collections.abc import Iterator

from mhc_exp.doctor.findings import Finding, note, ok, problem, size
from mhc_exp.doctor.litter import bytes_below
from mhc_exp.runs.checkpoints import Damaged
from mhc_exp.runs.directory import RunDirectory


def examine(run: RunDirectory, intact: list[int]) -> Iterator[Finding]:
    """Read all of them; the steps of those that are whole go to `intact`."""
    store = run.checkpoints
    if store.root.is_symlink():
        yield problem("checkpoints", f"{store.root} is a symbolic link; checkpoints are never written through one")
        return
    for step in store.steps():
        try:
            checkpoint = store.read(step)
        except Damaged as error:
            yield problem(
                "checkpoints", f"step {step} is damaged ({error}); a resumed run sets it aside and uses an older one"
            )
        except OSError as error:
            yield problem("checkpoints", f"step {step} cannot be read ({error})")
        else:
            intact.append(step)
            yield from _foreign(run, step, checkpoint.facts)
    if intact:
        amount = size(bytes_below(store.root))
        steps = ", ".join(map(str, intact))
        yield ok("checkpoints", f"steps {steps} have the hashes of their manifests, {amount} in all")
    if store.root.is_dir():
        aside = sorted(store.root.glob(".bad-*"))
        if aside:
            yield note(
                "checkpoints",
                f"{len(aside)} damaged ones were set aside ({size(sum(map(bytes_below, aside)))}: {aside[0].name}); "
                f"delete them when you have seen enough: rm -r {store.root}/.bad-*",
            )


def _foreign(run: RunDirectory, step: int, facts: dict) -> Iterator[Finding]:
    """A checkpoint of another wiring would not load."""
    own = run.identity["config"]["variant"]
    if facts.get("variant", own) != own:
        yield problem("checkpoints", f"step {step} is of another wiring than run.json says")
