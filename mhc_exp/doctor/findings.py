"""What an examination says: one line each, and only a problem makes the exit code 1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from mhc_exp.analysis.result import printable
from mhc_exp.runs.redaction import redact

Level = Literal["ok", "note", "repaired", "PROBLEM"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    """`note`: worth knowing, and nothing is lost by it."""
    subject: str
    text: str
    """For a problem: what is wrong and what to type."""

    def __str__(self) -> str:
        return f"{self.level:8s}  {self.subject:14s}  {printable(redact(self.text), kept='')}"


def ok(subject: str, text: str) -> Finding:
    return Finding("ok", subject, text)


def note(subject: str, text: str) -> Finding:
    return Finding("note", subject, text)


def problem(subject: str, text: str) -> Finding:
    return Finding("PROBLEM", subject, text)


def repaired(subject: str, text: str) -> Finding:
    return Finding("repaired", subject, text)


def said(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Each finding, printed as soon as it is known: some take seconds."""
    for finding in findings:
        print(finding, flush=True)
        yield finding


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
