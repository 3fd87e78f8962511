"""Pictures of whatever tables there are: reasons, looks, labels that do not overlap."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pandas")
pytest.importorskip("matplotlib")

from figure_cases import HISTORY, drawn, labels, made, reason, run, sweep, tables
from matplotlib.colors import to_rgba
from overlap_cases import assert_no_overlap

from mhc_exp.analysis import style
from mhc_exp.analysis.figures import FIGURES, pictures, save, show, tables_of
from mhc_exp.analysis.labels import GAP, spread
from mhc_exp.analysis.palette import KNOWN, ink, looks
from mhc_exp.paths import find

# --- whatever the tables are -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("excess", "known floor"),
        ("learning_rate", "two learning rates"),
        ("solved_hops", "dataset.hops=1,2"),
        ("gain", "only wirings with streams"),
        ("mixing_heatmap", "layers.jsonl"),
    ],
)
def test_what_cannot_be_drawn_has_a_reason(name: str, said: str) -> None:
    assert said in reason(name, tables(run()))


@pytest.mark.parametrize("lines", [[], [run()], [run("mhc")], [run("mhc", status="running", score=math.nan)]])
def test_no_run_and_one_run_are_pictures_or_reasons(lines: list[dict[str, Any]]) -> None:
    given, reasons = pictures(tables(*lines))
    assert {picture.name for picture in given} | set(reasons) == {figure.name for figure in FIGURES}
    assert all(reasons.values())
    for picture in given:
        show(picture).canvas.draw()


def test_tables_without_a_row_or_a_known_variant_have_reasons_only() -> None:
    bare = tables(run())
    assert not [p for p in pictures(bare._replace(rows=bare.rows.iloc[:0]))[0] if p.name != "final_loss_against_depth"]
    nameless = tables({**run(), "variant": None})
    assert pictures(nameless)[0] == []
    assert "run.json" in reason("loss", nameless)


def test_forty_wirings_stay_readable() -> None:
    lines = [run(f"wiring_{n}", 2, level=2 + n / 100) for n in range(40)]
    given, reasons = pictures(tables(*lines))
    assert set(reasons) == {"excess", "solved_hops", "learning_rate", "backend_parity", *HISTORY}
    for picture in given:
        assert len(picture.panels) <= 18
        _, (axes,) = style.figure("")
        picture.panels[-1].draw(axes)
    assert_no_overlap(made("loss", tables(*lines)).panels[0])
    axes = drawn("loss", tables(*lines))
    texts = [text.get_text() for text in axes.texts]
    assert len(labels(axes.lines)) == 40
    assert any("wiring_0 " in text for text in texts)
    assert "26 more between" in texts


def test_end_labels_never_overlap_and_stay_beside_the_panel() -> None:
    variants = tuple(KNOWN)
    lines = [run(v, 12, 0, level=2 + index**3 / 5000) for index, v in enumerate(variants)]
    given = tables(*lines)
    for name in ("loss", "gain", "final_loss_against_depth", "quality_against_time", "stream_collapse"):
        assert_no_overlap(made(name, given).panels[-1])


def test_labels_are_moved_only_as_far_as_needed() -> None:
    assert spread([0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9])
    assert spread([0.5, 0.5]) == pytest.approx([0.5 - GAP / 2, 0.5 + GAP / 2])
    assert spread([1.0, 1.0]) == pytest.approx([1 - GAP, 1])
    assert spread([0.0, 0.0, 0.01]) == pytest.approx([0, GAP, 2 * GAP])


def test_a_wiring_looks_the_same_in_every_picture() -> None:
    lines = [*sweep(("baseline", "mhc", "hc", "my_own")), run("mhc", 12, 0, 2e-3, level=3.0)]
    seen: dict[str, set[Any]] = {}
    for picture in pictures(tables(*lines))[0]:
        for panel in picture.panels:
            _, (axes,) = style.figure("")
            panel.draw(axes)
            for artist in axes.lines:
                if not artist.get_label().startswith("_"):
                    seen.setdefault(artist.get_label().split()[0], set()).add(to_rgba(artist.get_color()))
    assert {name: len(colors) for name, colors in seen.items()} == dict.fromkeys(("baseline", "mhc", "hc", "my_own"), 1)
    assert seen["baseline"] == {(0, 0, 0, 1)}
    assert len(set.union(*seen.values())) == 4


def test_every_wiring_that_ships_has_a_look() -> None:
    assert set(KNOWN) == {file.stem for file in (find("conf") / "variant").glob("*.yaml")}


def test_looks_are_distinct_stable_and_survive_grayscale() -> None:
    names = [f"mhc streams={n}" for n in range(15)]
    found = looks([*KNOWN, *names])
    assert len(set(found.values())) == len(found)
    assert looks(["baseline", names[0]])[names[0]] == looks([names[0]])[names[0]]
    gray = {
        name: np.dot(to_rgba(KNOWN[name].color)[:3], (0.2126, 0.7152, 0.0722)) for name in ("baseline", "mhc", "hc")
    }
    assert np.diff(sorted(gray.values())).min() > 0.2
    for look in found.values():
        assert np.dot(np.power(ink(look.color), 2.2), (0.2126, 0.7152, 0.0722)) < 0.18


def test_pictures_are_written_with_all_their_panels(tmp_path: Path) -> None:
    picture = made("loss", tables(*sweep()))
    file = save(picture, tmp_path / "plots")
    assert file == tmp_path / "plots" / "loss.png"
    assert file.read_bytes().startswith(b"\x89PNG")
    assert [axes.get_title(loc="left") for axes in show(picture).axes] == ["depth 12", "depth 24"]


def test_the_list_names_columns_that_the_tables_have() -> None:
    given = tables(*sweep())
    known = {*given.rows, *given.runs, *given.layers}
    assert [figure.name for figure in FIGURES if not known.issuperset(figure.columns)] == []
    names = [figure.name for figure in FIGURES]
    assert len(set(names)) == len(names)
    others = {"excess", "learning_rate", "solved_hops", "backend_parity", *HISTORY}
    assert {picture.name for picture in pictures(given)[0]} == set(names) - others


def test_tables_of_a_directory_are_those_of_load(tmp_path: Path) -> None:
    place = tmp_path / "a"
    place.mkdir()
    config = {"depth": 2, "seed": 0, "variant": {"name": "mhc"}}
    (place / "run.json").write_text(json.dumps({"name": "a", "config": config}))
    (place / "status.json").write_text(json.dumps({"state": "done", "step": 0, "score": 1.5}))
    (place / "metrics.jsonl").write_text('{"step": 0, "val/loss": 1.5}\n')
    (place / "layers.jsonl").write_text('{"step": 0, "mix/diagonal": [1.0, 0.5]}\n')
    given = tables_of(tmp_path)
    assert given.rows["val/loss"].tolist() == [1.5]
    assert given.runs["variant"].tolist() == ["mhc"]
    assert given.layers["mix/diagonal"].tolist() == [1.0, 0.5]
    drawable, reasons = pictures(given)
    assert {"loss", "final_loss_against_depth"} <= {picture.name for picture in drawable}
    assert "layers.jsonl" in reasons["entries"], "half of the columns are not enough"
