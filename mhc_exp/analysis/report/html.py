"""The report as one HTML page: style, script and pictures inside it, nothing fetched, readable without the script."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from mhc_exp.analysis.figures import Picture
from mhc_exp.analysis.report.content import Content
from mhc_exp.analysis.report.svg import Drawn
from mhc_exp.analysis.report.table import Cell, Table
from mhc_exp.analysis.report.verdicts import MEANING

MARK = '<meta name="generator" content="mhc_exp report">'
"""What tells a page of ours from any other file."""
LONG = 28
"""Characters of a cell that is given room for several words on a line."""
SECTIONS = {"verdicts": "Against the baseline", "pictures": "Pictures", "runs": "Runs", "again": "How to reproduce"}

Pairs = Sequence[tuple[str, str]]
"""What is said -> how it is."""


class Section(NamedTuple):
    """A part of a page."""

    key: str
    """Its anchor."""
    name: str
    parts: Sequence[str]


def page(content: Content, drawn: Sequence[tuple[Picture, Sequence[Drawn]]], written: datetime) -> str:
    """The whole file."""
    sections = {
        "verdicts": [f"<p>{escape(MEANING)}</p>", *map(_verdict, content.verdicts)],
        "pictures": [*(figure(*one) for one in drawn), *missing(content.missing)],
        "runs": [table(content.runs)],
        "again": list(_again(content)),
    }
    return document(
        content.title, content.facts, [Section(key, SECTIONS[key], parts) for key, parts in sections.items()], written
    )


def document(title: str, facts: Pairs, sections: Sequence[Section], written: datetime) -> str:
    """A whole file of these sections."""
    style, script = (_asset(name) for name in ("page.css", "page.js"))
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy(style, script)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="referrer" content="no-referrer">',
        MARK,
        f"<title>{escape(title)}</title>",
        f"<style>{style}</style>",
        "</head>",
        "<body>",
        *_head(title, facts, sections, written),
        "<main>",
        *(line for section in sections for line in _section(section)),
        "</main>",
        f"<script>{script}</script>",
        "</body>",
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def policy(style: str, script: str) -> str:
    """Nothing is loaded and only this style and this script count, whatever a name of a run may smuggle in."""
    rules = {
        "default-src": "'none'",
        "script-src": f"'sha256-{_hash(script)}'",
        "style-src": "'unsafe-inline'",  # for browsers without the two below
        "style-src-elem": f"'sha256-{_hash(style)}'",
        "style-src-attr": "'unsafe-inline'",  # matplotlib colours by attribute
        "img-src": "data:",  # a heat map inside an SVG may be a picture
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _asset(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _head(title: str, facts: Pairs, sections: Sequence[Section], written: datetime) -> Iterator[str]:
    yield f"<header>\n<h1>{escape(title)}</h1>"
    yield _pairs(facts)
    yield f'<p class="note">Written <time datetime="{written.isoformat()}">{written:%Y-%m-%d %H:%M} UTC</time>.</p>'
    links = "".join(f'<a href="#{section.key}">{escape(section.name)}</a>' for section in sections)
    yield f'<nav aria-label="Sections">{links}</nav>'
    yield "</header>"


def _pairs(pairs: Pairs) -> str:
    lines = "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in pairs if text)
    return f"<dl>\n{lines}\n</dl>" if lines else ""


def _section(section: Section) -> Iterator[str]:
    key = section.key
    yield f'<section id="{key}" aria-labelledby="{key}-title">\n<h2 id="{key}-title">{escape(section.name)}</h2>'
    yield from section.parts
    yield "</section>"


def _verdict(part: Table | str) -> str:
    return f"<p>{escape(part)}</p>" if isinstance(part, str) else table(part)


def table(shown: Table) -> str:
    """In a frame that scrolls by itself, by keyboard too."""
    title = escape(shown.title)
    head = "".join(f'<th scope="col"{_class(_side(shown, name))}>{escape(name)}</th>' for name in shown.columns)
    body = "\n".join(f"<tr>{''.join(_cells(shown, line))}</tr>" for line in shown.lines)
    note = f'<p class="note">{escape(shown.note)}</p>\n' if shown.note else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{title}">\n<table>\n<caption>{title}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>\n{note}"
    )


def _cells(table: Table, line: Sequence[Cell]) -> Iterator[str]:
    for name, cell in zip(table.columns, line, strict=True):
        text = escape(cell.text)
        if cell.link:
            text = f'<a href="{escape(cell.link)}">{text}</a>'
        order = "" if cell.order is None else f' data-order="{float(cell.order):.10g}"'
        wide = "long" if len(cell.text) > LONG else ""
        yield f"<td{_class(_side(table, name), cell.kind, wide)}{order}>{text}</td>"


def _side(table: Table, column: str) -> str:
    return "right" if column in table.right else ""


def _class(*words: str) -> str:
    named = " ".join(filter(None, words))
    return f' class="{named}"' if named else ""


def figure(picture: Picture, panels: Sequence[Drawn]) -> str:
    """Panels beside each other over their caption."""
    beside = ("one", "two", "three")[max(1, min(3, picture.columns, len(panels))) - 1]
    drawn = "\n".join(_panel(panel.title, one) for panel, one in zip(picture.panels, panels, strict=True))
    return (
        f'<figure id="{escape(f"picture-{picture.name}")}">\n<h3>{escape(picture.title)}</h3>\n'
        f'<div class="panels {beside}">\n{drawn}\n</div>\n<figcaption>{escape(picture.caption)}</figcaption>\n</figure>'
    )


def _panel(title: str, drawn: Drawn) -> str:
    head = f"<h4>{escape(title)}</h4>\n" if title else ""
    return f'<div class="panel">\n{head}{drawn.svg}\n{_data(drawn.points)}\n</div>'


def _data(points: dict[str, Any]) -> str:
    """JSON that no text in it can end early."""
    text = json.dumps(points, separators=(",", ":"), ensure_ascii=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return f'<script type="application/json">{text}</script>'


def missing(reasons: dict[str, str]) -> Iterator[str]:
    """What could not be drawn, and why; nothing if that is nothing."""
    if reasons:
        lines = "\n".join(f"<li>{escape(name)}: {escape(why)}</li>" for name, why in reasons.items())
        yield f"<h3>Not drawn</h3>\n<ul>\n{lines}\n</ul>"


def _again(content: Content) -> Iterator[str]:
    yield f"<pre>{escape(chr(10).join(content.commands))}</pre>"
    yield _pairs(content.made_with)
