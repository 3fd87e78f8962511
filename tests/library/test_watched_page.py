"""`mhc-exp report` of watched connections: a page that fetches nothing, and every picture."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from test_watch import batch, injected, several, train

from mhc_exp import commands
from mhc_exp.analysis.report import NotOurs
from mhc_exp.analysis.sources import NothingThere
from mhc_exp.analysis.terminal import find
from mhc_exp.analysis.watched.page import write_page
from mhc_exp.torch import Watch


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("watched") / "both"
    model = several()
    watch = Watch(model, place, every=2)
    train(model, 5, watch)
    watch.close()
    return place


def test_the_page_has_every_picture_of_every_stack(directory, tmp_path):
    page, *images = write_page(directory, tmp_path)
    names = {image.name for image in images}
    history = {f"{name}-0.png" for name in ("history_weights", "history_contribution", "gradient_flow", "training")}
    streams = ("mixing", "mixing_over_training", "gains", "streams_in_use", "gradient_flow", "scales", "training")
    assert names == history | {f"{name}-1.png" for name in streams}
    assert all(image.read_bytes().startswith(b"\x89PNG") for image in images)
    text = page.read_text(encoding="utf-8")
    assert text.count("<figure") == len(images)
    assert "drawing it failed" not in text
    assert "default-src 'none'" in text
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", text)
    assert "1.connections" in text


def test_a_static_connection_has_no_scales_and_the_page_says_so(tmp_path):
    model = injected()
    watch = Watch(model, tmp_path)
    with watch.step():
        model(batch(0))
    page, *images = write_page(tmp_path)
    assert {image.stem for image in images} == {"mixing", "mixing_over_training", "gains", "streams_in_use", "scales"}
    text = page.read_text(encoding="utf-8")
    assert "no backward pass inside" in text
    assert "no loss" in text
    write_page(tmp_path)  # an earlier page is replaced
    page.write_text("mine")
    with pytest.raises(NotOurs):
        write_page(tmp_path)


def test_a_torn_line_is_left_out(tmp_path):
    watch = Watch(injected(), tmp_path, every=1)
    train(watch.model, 2, watch)
    watch.close()
    for name in ("metrics.jsonl", "layers.jsonl"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[:-40])
    assert "1 steps from 0 to 0" in write_page(tmp_path)[0].read_text(encoding="utf-8")


def test_the_command_takes_a_watch_alone_and_is_no_run(directory, tmp_path, capsys):
    assert commands.run("report", [str(directory), "--out", str(tmp_path)]) == 0
    assert "report.html" in capsys.readouterr().out
    assert commands.run("report", [str(directory), str(tmp_path)]) == commands.REFUSED
    assert "type it alone" in capsys.readouterr().err
    with pytest.raises(NothingThere, match="type mhc-exp report"):
        find(str(directory))
    assert commands.run("ls", [str(directory.parent)]) == 0
    assert "both" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read"),
        (json.dumps({"stacks": [{"name": 3}]}), "cannot be read"),
        (json.dumps({"stacks": []}), "nothing has been measured"),
    ],
)
def test_a_directory_that_cannot_be_read_is_refused(content, said, tmp_path, capsys):
    (tmp_path / "watch.json").write_text(content)
    assert commands.run("report", [str(tmp_path)]) == commands.REFUSED
    assert said in capsys.readouterr().err
    assert commands.run("report", [str(tmp_path / "nowhere")]) == commands.REFUSED
    assert "no such file or directory" in capsys.readouterr().err


def test_watches_are_offered_by_completion_for_the_report_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("MHC_RUNS", str(tmp_path))
    Watch(injected(), tmp_path / "mine")
    assert str(tmp_path / "mine") in (commands.arguments("mhc-exp report ") or [])
    assert str(tmp_path / "mine") not in (commands.arguments("mhc-exp ls ") or [])
