"""`mhc-exp report`: what the page and the Markdown say is what the runs say, whatever the runs are called."""

from __future__ import annotations

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

pytest.importorskip("pandas")
pytest.importorskip("matplotlib")

import numpy as np
from test_load import store

from mhc_exp import commands
from mhc_exp.analysis import figures, load_runs
from mhc_exp.analysis.figures import Panel, Picture
from mhc_exp.analysis.report import main, write_report
from mhc_exp.analysis.report.content import link
from mhc_exp.analysis.report.html import policy

VOID = {"meta", "link", "br", "hr", "img", "input"}
HOSTILE = "</script><script>alert(1)</script>|`x`"


class Page(HTMLParser):
    """Elements of a page as (tag, attributes), its tables as texts, and its JSON."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.data: list[Any] = []
        self.open: list[str] = []
        self._json = ""
        self.feed(text)
        self.close()
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "script" and self._json:
            self.data.append(json.loads(self._json))
            self._json = ""

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data
        if self.open and self.open[-1] == "script" and self.elements[-1] == ("script", {"type": "application/json"}):
            self._json += data

    def all(self, tag: str, name: str) -> list[str]:
        return [attributes[name] or "" for kind, attributes in self.elements if kind == tag and name in attributes]


def sweep(root: Path) -> Path:
    """Three seeds of two wirings, one of them diverged, one failed, one whose run.json is damaged, one torn."""
    for number, variant in enumerate(("baseline", "mhc")):
        for seed in range(3):
            config = {"seed": seed, "variant": {"name": variant}}
            path = store(root / f"{variant}-{seed}", config=config, status={"score": 1.5 - 0.1 * number + 0.01 * seed})
            facts = json.loads((path / "run.json").read_text())
            facts |= {"config_hash": f"{variant}{seed}", "command": ["mhc-exp", "-m", "seed=range(3)"]}
            (path / "run.json").write_text(json.dumps(facts))
    lost = {"seed": 3, "variant": {"name": "mhc"}}
    store(root / "lost", config=lost, status={"state": "diverged", "step": 3, "score": None})
    failed = {"seed": 4, "variant": {"name": "mhc"}}
    store(root / "failed", config=failed, status={"state": "failed", "reason": f"ValueError: {HOSTILE}"})
    (store(root / "half") / "run.json").write_text('{"name": "ha')
    with (root / "mhc-2" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "tra')
    return root


def line(axes: Any) -> None:
    axes.plot([0, 10, 20], [3.0, 2.0, 1.5], label=HOSTILE)
    axes.set_xlabel("step")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """One picture in place of the list, so that a report takes no seconds."""
    picture = Picture("curves", f"Loss {HOSTILE}", f"Caption {HOSTILE}", (Panel("a", line), Panel("b", line)))
    monkeypatch.setattr(figures, "pictures", lambda tables: ([picture], {"other": f"needs {HOSTILE}"}))


def report(source: Any, out: Path | None = None) -> tuple[Page, str]:
    page, text = write_report(source, out)
    return Page(page.read_text(encoding="utf-8")), text.read_text(encoding="utf-8")


def cells(text: str) -> list[list[str]]:
    """Lines of the last table of a Markdown text, without the emphasis and escapes."""
    last = re.findall(r"(?:^\|.*\n)+", text, re.M)[-1].splitlines()
    assert re.fullmatch(r"(\| -{3}:? )+\|", last[1])
    rows = [re.split(r"(?<!\\)\|", row)[1:-1] for row in (last[0], *last[2:])]
    return [[re.sub(r"\\(.)", r"\1", cell.strip().strip("*")) for cell in row] for row in rows]


@pytest.mark.usefixtures("few")
def test_the_run_table_is_what_load_runs_gives(tmp_path: Path) -> None:
    page, text = report(sweep(tmp_path / "depth"))
    runs = load_runs(tmp_path / "depth")[1].set_index("run")
    head, *lines = page.tables[-1]
    assert len(lines) == len(runs) == 9
    for row in lines:
        cell, run = dict(zip(head, row, strict=True)), runs.loc[row[0]]
        assert cell["state"] == run["status"]
        assert cell["variant"] == (run["variant"] if isinstance(run["variant"], str) else "")
        for column, name in (("seed", "seed"), ("depth", "depth"), ("held-out loss", "score")):
            known = not np.isnan(run[name])
            assert bool(cell[column]) == known
            assert not known or float(cell[column]) == pytest.approx(run[name], abs=5e-5)
        assert cell["damage"] == ("last line cut off" if row[0] == "mhc-2" else "")
        assert cell["reason"] == (run["reason"] or "")
    assert [[re.sub(r"^\[(.*)\]\(.*\)$", r"\1", row[0]), *row[1:]] for row in cells(text)] == [head, *lines]
    assert "7 done, 1 diverged, 1 failed" not in text, "states are in order of the alphabet"
    assert "- runs: 1 diverged, 7 done, 1 failed\n" in text


@pytest.mark.usefixtures("few")
def test_the_verdict_counts_what_is_lost_and_pairs_the_rest(tmp_path: Path) -> None:
    page, _ = report(sweep(tmp_path))
    head, row = page.tables[0]
    cell = dict(zip(head, row, strict=True))
    assert (cell["variant"], cell["verdict"], cell["difference"]) == ("mhc", "different", "-0.1000")
    assert (cell["seeds agreeing"], cell["diverged"], cell["unfinished"]) == ("3 of 3", "1 / 0", "1 / 0")
    assert "2 seeds have no partner" in cell["notes"]


@pytest.mark.usefixtures("few")
def test_what_a_variant_costs_stands_beside_every_comparison(tmp_path: Path) -> None:
    root = sweep(tmp_path)
    for directory in (*root.glob("mhc-*"), root / "lost", root / "failed"):
        facts = json.loads((directory / "run.json").read_text())
        facts |= {"connection_parameters": 256, "flops_per_token": 1.32 * facts["flops_per_token"]}
        (directory / "run.json").write_text(json.dumps(facts))
    page, _ = report(tmp_path)
    compared = [table for table in page.tables if "verdict" in table[0]]
    assert len(compared) == 3
    for head, row in compared:
        cell = dict(zip(head, row, strict=True))
        assert (cell["parameters"], cell["FLOPs"]) == ("+22.7%", "+32.0%")


@pytest.mark.usefixtures("few")
def test_several_learning_rates_are_shown_and_the_best_is_compared(tmp_path: Path) -> None:
    for variant, gain in (("baseline", 0.0), ("mhc", 0.2)):
        for seed in range(3):
            for rate in (0.001, 0.002):
                config = {"seed": seed, "variant": {"name": variant}, "optimizer": {"lr": rate}}
                score = 2 - gain * (rate == 0.001) + 0.01 * seed
                store(tmp_path / f"{variant}-{seed}-{rate}", config=config, status={"score": score})
    page, text = report(tmp_path)
    rates, compared = page.tables[:2]
    best = [row for row in rates[1:] if row[rates[0].index("compared at")]]
    assert [row[rates[0].index("learning rate")] for row in best] == ["0.001", "0.001"]
    assert compared[1][compared[0].index("difference")] == "-0.2000"
    assert "in favours" not in text
    assert "which favours a variant with a longer grid" in text


@pytest.mark.usefixtures("few")
def test_a_run_that_has_just_begun_does_not_move_the_point_of_an_equal_comparison(tmp_path: Path) -> None:
    young = {"seed": 5, "variant": {"name": "mhc"}}
    store(sweep(tmp_path) / "young", steps=2, config=young, status={"state": "running", "host": "elsewhere"})
    page, text = report(tmp_path)
    head, row = page.tables[1]
    cell = dict(zip(head, row, strict=True))
    assert (cell["at step"], cell["seeds agreeing"], cell["unfinished"]) == ("4", "0 of 3", "2 / 0")
    assert "Loss at equal tokens: the same as at equal steps" in text
    alone = tmp_path / "alone"
    for seed, variant in ((0, "baseline"), (0, "mhc")):
        config = {"seed": seed, "variant": {"name": variant}}
        store(alone / variant, steps=3, config=config, status={"state": "running", "host": "elsewhere"})
    page, _ = report(alone)
    assert page.tables[1][1][page.tables[1][0].index("at step")] == "2", "without any that is done, as far as all are"


@pytest.mark.usefixtures("few")
def test_without_a_baseline_it_says_what_is_missing(tmp_path: Path) -> None:
    store(tmp_path / "a")
    _, text = report(tmp_path)
    assert "Nothing to compare: that needs runs of baseline and of another variant" in text


@pytest.mark.usefixtures("few")
def test_links_lead_to_the_run_directories(tmp_path: Path) -> None:
    out = tmp_path / "else where"
    page, text = report(sweep(tmp_path / "runs"), out)
    links = [href for href in page.all("a", "href") if not href.startswith("#")]
    assert len(links) == 9
    for href in links:
        assert (out / unquote(href)).is_dir()
        assert f"]({href})" in text
    for image in re.findall(r"!\[.*\]\((.*)\)", text):
        assert (out / unquote(image)).read_bytes().startswith(b"\x89PNG")


def test_only_directories_and_https_become_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("javascript:alert(1)").mkdir()
    assert link("javascript:alert(1)", Path()) == "javascript%3Aalert%281%29/"
    assert link("javascript:alert(2)", Path()) is None
    assert link('https://wandb.ai/a/b" onclick="x', Path()) == "https://wandb.ai/a/b%22%20onclick=%22x"
    assert link("http://wandb.ai/a", Path()) is None


@pytest.mark.usefixtures("few")
def test_nothing_in_a_run_becomes_markup_and_nothing_is_fetched(tmp_path: Path) -> None:
    hostile = {"seed": 0, "variant": {"name": HOSTILE, "streams": "<b>"}, "dataset": {"kind": "<img src=x>"}}
    path = store(tmp_path / "<i>", config=hostile)
    facts = json.loads((path / "run.json").read_text())
    facts |= {"name": HOSTILE, "command": ["x", HOSTILE, "a\n# b"], "hostname": "<b>", "platform": HOSTILE}
    (path / "run.json").write_text(json.dumps(facts))
    store(tmp_path / "b", config={"variant": {"name": "baseline"}})
    page, text = report(tmp_path)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    scripts = [attributes for tag, attributes in page.elements if tag == "script"]
    assert scripts == [{"type": "application/json"}] * 2 + [{}], "the panels' data and the page's own script"
    assert not {"img", "link", "iframe", "b", "i"} & {tag for tag, _ in page.elements}
    assert not re.search(r"(?i)https?:|//[a-z]+\.[a-z]", re.sub(r"<script>.*?</script>", "", html, flags=re.S))
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.tables[-1][1][0] == HOSTILE
    assert [series["label"] for series in page.data[0]["series"]] == [HOSTILE]
    assert not re.search(r"(?<!\\)<(?!!-- mhc_exp report -->)", text.split("## How to reproduce")[0])
    assert re.search(r"^    # b", text, re.M), "a command is shown on lines of code"
    assert len({len(row) for row in cells(text)}) == 1


@pytest.mark.usefixtures("few")
def test_every_id_occurs_once_and_every_reference_leads_somewhere(tmp_path: Path) -> None:
    store(tmp_path / "a")
    page, _ = report(tmp_path)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    asked = set(re.findall(r'(?:href="|url\()#([^")]+)', html))
    assert len(asked) > 4
    assert asked <= set(ids)


@pytest.mark.usefixtures("few")
def test_the_same_runs_give_the_same_files_apart_from_the_date(tmp_path: Path) -> None:
    source = sweep(tmp_path / "runs")

    def without_date(text: str) -> str:
        return re.sub(r"Written .*", "", text)

    once = [without_date(file.read_text(encoding="utf-8")) for file in write_report(source)]
    assert [without_date(file.read_text(encoding="utf-8")) for file in write_report(source)] == once


def test_the_policy_admits_this_style_and_this_script_alone() -> None:
    rules = dict(rule.split(" ", 1) for rule in policy("a", "b").split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"].startswith("'sha256-")
    assert rules["script-src"] != policy("a", "c").split("; ")[1].split(" ", 1)[1]


def test_a_picture_that_cannot_be_drawn_does_not_take_the_others_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bad(axes: Any) -> None:
        raise ValueError("no such column")

    listed = [Picture("bad", "Bad", "", (Panel("", bad),)), Picture("good", "Good", "", (Panel("", line),))]
    monkeypatch.setattr(figures, "pictures", lambda tables: (listed, {}))
    store(tmp_path / "a")
    page, text = report(tmp_path)
    assert len(page.data) == 1
    assert "- bad: drawing it failed: ValueError: no such column" in text


def test_a_report_of_runs_without_a_single_row_is_still_a_report(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "status.json").write_text("{")
    page, text = report(tmp_path)
    assert page.tables[-1][1][:2] == ["a", "unknown"]
    assert "### Not drawn" in text


@pytest.mark.usefixtures("few")
def test_the_door_writes_beside_the_runs_or_where_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        store(Path("runs/depth") / name)
    assert main(["runs/depth"]) == 0
    assert capsys.readouterr().out.splitlines() == ["runs/depth/report.html", "runs/depth/report.md"]
    assert main(["runs/depth"]) == 0, "a report of ours is replaced"
    assert main(["runs/depth/*", "--out", "new/place"]) == 0
    assert main(["runs/depth/a", "runs/depth/b"]) == 0
    assert Path("new/place/report_files/curves.png").exists()
    assert Path("report.html").exists()
    assert "    mhc-exp report runs/depth/a runs/depth/b\n" in Path("report.md").read_text()
    assert "    mhc-exp report 'runs/depth/*' --out new/place\n" in Path("new/place/report.md").read_text()


@pytest.mark.parametrize(
    ("out", "in_the_way"), [("f", "f"), ("f/deeper/down", "f"), ("out", "out/report_files"), ("link", "link")]
)
def test_a_file_where_a_directory_has_to_be_is_refused_in_one_line(
    out: str, in_the_way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    store(Path("runs/a"))
    Path("out").mkdir()
    Path("link").symlink_to("nowhere")
    for file in ("f", "out/report_files"):
        Path(file).write_text("mine")
    assert commands.run("report", ["runs", "--out", out]) == 2
    said = f"{in_the_way} is in the way, a directory is needed there; move it, or type another --out DIR"
    assert capsys.readouterr().err == f"mhc-exp report: {said}\n"
    assert sorted(os.listdir()) == ["f", "link", "out", "runs"]


@pytest.mark.usefixtures("few")
def test_pictures_of_an_earlier_report_go_and_those_of_others_stay(tmp_path: Path) -> None:
    store(tmp_path / "a")
    kept = {"mine.png", "loss.svg", "curves.png", "entries.png"}
    (tmp_path / "report_files" / "entries.png").mkdir(parents=True)
    for name in ("loss.png", "gain.png", *(kept - {"entries.png"})):
        (tmp_path / "report_files" / name).write_bytes(b"")
    report(tmp_path)
    assert set(os.listdir(tmp_path / "report_files")) == kept


def test_the_door_refuses_with_the_word_that_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def at_the_door(arguments: list[str]) -> int:
        return commands.run("report", arguments)

    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    assert at_the_door(["empty"]) == 2
    assert capsys.readouterr().err == "mhc-exp report: no runs in empty; train one: python -m mhc_exp\n"
    assert at_the_door(["nowhere"]) == 2
    assert "no such file or directory: nowhere" in capsys.readouterr().err
    store(tmp_path / "runs" / "a")
    Path("runs/report.md").write_text("# my own words\n")
    assert at_the_door(["runs"]) == 2
    assert "runs/report.md is not a report of ours and is left alone; move it, or type --out DIR" in (
        capsys.readouterr().err
    )
    assert Path("runs/report.md").read_text() == "# my own words\n"
    assert sorted(os.listdir("runs")) == ["a", "report.md"]
    with pytest.raises(SystemExit):
        main([])
