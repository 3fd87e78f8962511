"""The main door, called in this process the way a shell calls it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from mhc_exp import cli


@dataclass(frozen=True)
class Said:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str


class Door:
    """`mhc-exp WORDS` in an empty directory."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self.directory, self._monkeypatch, self._capfd = directory, monkeypatch, capfd

    def __call__(self, *words: str) -> Said:
        self._monkeypatch.setattr(sys, "argv", ["mhc-exp", *words])
        try:
            code = cli.main()
        except SystemExit as exit:  # argparse, and Hydra's own listing commands
            code = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
        out, err = self._capfd.readouterr()
        return Said(code, out, err)

    def left_behind(self) -> list[str]:
        """Everything that now lies in the directory."""
        return sorted(str(path.relative_to(self.directory)) for path in self.directory.rglob("*"))
