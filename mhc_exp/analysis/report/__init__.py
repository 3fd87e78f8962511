"""`mhc-exp report SOURCE`: everything about a set of runs in report.html and report.md; or about a Watch, one page."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mhc_exp.analysis.sources import NothingThere, Source, is_watch

if TYPE_CHECKING:
    from mhc_exp.analysis.figures import Picture
    from mhc_exp.analysis.report.svg import Drawn


class NotOurs(NothingThere):
    """A file in the way that was not written here; the text says what to type instead."""


def main(arguments: Sequence[str]) -> int:
    """`arguments` is what follows the word; the exit code. Raises what `write_report` raises: the doors say it."""
    parser = argparse.ArgumentParser(
        prog="mhc-exp report",
        description="Write report.html (one file, opens anywhere) and report.md: verdicts, pictures, and every run. "
        "Of a directory that mhc_exp.torch.Watch filled: report.html and its pictures.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "source",
        nargs="+",
        metavar="SOURCE",
        help="directory of runs, one run, glob, .wandb file, or wandb://entity/project; or one directory of a Watch",
    )
    parser.add_argument("--out", metavar="DIR", help="default: SOURCE if it is a directory, else the current directory")
    given = parser.parse_args(list(arguments))
    files = _written(given.source, given.out)
    print(*map(os.path.relpath, files), sep="\n")
    return 0


def _written(source: Sequence[str], out: str | None) -> list[Path]:
    from mhc_exp.analysis.watched.page import write_page

    watches = [one for one in source if is_watch(Path(one).expanduser())]
    if not watches:
        return write_report(source, out)
    if len(source) > 1:
        raise NothingThere(f"{watches[0]} holds watched connections, which have a page of their own; type it alone")
    return write_page(watches[0], out)


def write_report(source: Source | Sequence[Source], out: Source | None = None) -> list[Path]:
    """Write report.html, report.md and report_files/ about the runs of `source` (see `load_runs`); the two files.

    Into the directory `out`, by default `source` if that is a directory, else the current one. An earlier report is
    replaced, with its pictures. Raises NothingThere without runs, NotOurs where another file is in the way.
    """
    from mhc_exp.analysis import figures
    from mhc_exp.analysis.report import html, markdown
    from mhc_exp.analysis.report.content import content
    from mhc_exp.runs.disk import Disk

    sources = [os.fspath(one) for one in ([source] if isinstance(source, str | os.PathLike) else source)]
    directory = Path(out).expanduser() if out is not None else _beside(sources)
    page, text, files = (directory / name for name in ("report.html", "report.md", "report_files"))
    room(files)
    ours({page: html.MARK, text: markdown.MARK})
    tables = figures.tables_of(sources)
    if not len(tables.runs):
        raise NothingThere(f"no runs in {', '.join(sources)}; train one: python -m mhc_exp")
    found, missing = figures.pictures(tables)
    pictures, panels = draw_panels(found, missing)
    directory.mkdir(parents=True, exist_ok=True)
    told = content(sources, tables, pictures, missing, directory, () if out is None else ("--out", os.fspath(out)))
    images = {picture.name: figures.save(picture, files).relative_to(directory).as_posix() for picture in pictures}
    written, disk = datetime.now(UTC).replace(microsecond=0), Disk()
    disk.replace_durably(text, markdown.text(told, images, written).encode())
    disk.replace_durably(page, html.page(told, list(zip(pictures, panels, strict=True)), written).encode())
    remove(files / f"{figure.name}.png" for figure in figures.FIGURES if figure.name not in images)
    return [page, text]


def _beside(sources: Sequence[str]) -> Path:
    """The one directory that is reported on, or the current one."""
    only = Path(sources[0]).expanduser()
    return only if len(sources) == 1 and only.is_dir() else Path()


def ours(marks: dict[Path, str]) -> None:
    """Raise NotOurs if one of the files exists without the mark of a report."""
    for file, mark in marks.items():
        if file.exists() and not (file.is_file() and mark in file.read_text(encoding="utf-8", errors="replace")):
            raise NotOurs(f"{file} is not a report of ours and is left alone; move it, or type --out DIR")


def room(directory: Path) -> None:
    """Raise NotOurs if `directory` cannot be made, because it or one above it is a file."""
    there = next((place for place in (directory, *directory.parents) if os.path.lexists(place)), None)
    if there and not there.is_dir():
        raise NotOurs(f"{there} is in the way, a directory is needed there; move it, or type another --out DIR")


def remove(pictures: Iterable[Path]) -> None:
    """Remove what an earlier report drew and this one does not."""
    for picture in pictures:
        if picture.is_file():
            picture.unlink()


def draw_panels(pictures: Sequence[Picture], missing: dict[str, str]) -> tuple[list[Picture], list[list[Drawn]]]:
    """The pictures with their panels; one that cannot be drawn goes to `missing`, so that the others are read."""
    from mhc_exp.analysis.report.svg import drawn

    good: list[Picture] = []
    panels: list[list[Drawn]] = []
    for picture in pictures:
        try:
            panels.append([drawn(panel, f"{picture.name}-{n}") for n, panel in enumerate(picture.panels)])
        except Exception as error:
            missing[picture.name] = f"drawing it failed: {type(error).__name__}: {error}"
        else:
            good.append(picture)
    return good, panels
