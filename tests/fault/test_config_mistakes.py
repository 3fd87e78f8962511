"""Row 24: a slip of the hand is answered with the right word, and no mixture of legal and illegal words crashes."""

from __future__ import annotations

import dataclasses
import random
import string
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from door import Door
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_config_refusals import OPTIONS, RULES, UNKNOWN, VALUES

from mhc_exp import cli
from mhc_exp.config import build, spelling, vocabulary
from mhc_exp.config.schema import DISCRIMINATORS

SEED = 24


def slips(word: str, draw: random.Random) -> Iterator[str]:
    """An insertion, a replacement, a deletion and a swap somewhere in the last part of `word`."""
    head, dot, leaf = word.rpartition(".")
    letter, at = draw.choice(string.ascii_lowercase), draw.randrange(len(leaf))
    found = [leaf[:at] + letter + leaf[at:], leaf[:at] + letter + leaf[at + 1 :]]
    if len(leaf) > 1:
        found += [
            leaf[:at] + leaf[at + 1 :],
            leaf[: max(1, at) - 1] + leaf[max(1, at)] + leaf[max(1, at) - 1] + leaf[max(1, at) + 1 :],
        ]
    yield from (f"{head}{dot}{slip}" for slip in found if slip != leaf)


def misspelt() -> Iterator[tuple[str, str, str]]:
    """(what was meant, what was typed, what is answered) for all keys, options and named values."""
    draw = random.Random(SEED)
    classes = [(group, cls) for group, (_, kinds) in DISCRIMINATORS.items() for cls in kinds.values()]
    seen: set[str] = set()
    for group, cls in classes:
        found = vocabulary.keys(**{group: cls})
        for leaf in vocabulary.leaves(found):
            if leaf not in seen:
                seen.add(leaf)
                yield from (
                    (leaf, slip, vocabulary.advice(slip, found)) for slip in slips(leaf, draw) if slip not in found
                )
    for group in vocabulary.ALL_GROUPS:
        names = vocabulary.options(group)
        for name in names:
            yield from ((name, slip, spelling.suggest(slip, names)) for slip in slips(name, draw) if slip not in names)
    for key, hint in vocabulary.keys().items():
        for value in get_args(hint) if get_origin(hint) is Literal else ():
            for slip in slips(value, draw):
                if slip not in get_args(hint):
                    yield value, slip, str(build.value_problems(hint, slip, key)[0])


def answered() -> tuple[int, list[tuple[str, str]]]:
    """How many slips there were, and those that were not answered with the word that was meant."""
    asked = list(misspelt())
    return len(asked), [(meant, typed) for meant, typed, said in asked if f"'{meant}'" not in said]


@pytest.mark.fault(row=24)
def test_nine_of_ten_slips_of_one_letter_get_the_word_that_was_meant(record_property) -> None:
    count, missed = answered()
    print(f"seed {SEED}: {count - len(missed)} of {count} slips are answered with the right word")
    record_property("trials", count)
    assert count > 1300
    assert len(missed) <= 0.1 * count, missed[:20]


@pytest.mark.fault(row=24, mutation=True)
def test_without_counting_edits_too_many_slips_would_be_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spelling, "_slips", lambda word: -1)
    monkeypatch.setattr(spelling, "_similarity", lambda one, other: 0.0)
    count, missed = answered()
    assert len(missed) > 0.1 * count


@pytest.mark.fault(row=24)
def test_there_are_at_least_60_bad_commands_with_the_key_and_the_rule_that_answers_them() -> None:
    cases = [*UNKNOWN, *OPTIONS, *VALUES, *RULES]
    assert len({words for words, _, _ in cases}) >= 60
    assert all(where and says for _, where, says in cases)


# --- random command lines --------------------------------------------------------------------------------------------

NASTY = [
    *(
        "",
        "null",
        "nan",
        "-inf",
        "1e999",
        "-1",
        "0",
        "9" * 30,
        "true",
        "[]",
        "{}",
        "[1,[2]]",
        "{a:b}",
        "???",
        "${depth}",
    ),
    *("${", "${oc.env:HOME}", "${nope:1}", "a,b", "range(3)", "range(1,0)", "choice(1,2)", "glob(*)", "sort(3,1)"),
    *(
        "../x",
        "a/b",
        "'",
        '"',
        "\\",
        "\x00",
        "\t",
        "é",
        "\U0001f600",
        "x" * 5000,
        "!!python/name:os.system",
        "_target_",
    ),
    *("int(3)", "str(1)", "float(x)", "interval(1,2)", "shuffle(1,2)", "extend_list(1)", "a=b", ":", "@", "~", "+"),
]
GROUPS = {group: vocabulary.options(group) for group in vocabulary.ALL_GROUPS}
KEYS = [*vocabulary.leaves(vocabulary.keys()), "hydra.job.name", "hydra.run.dir", "nope", "model", "variant.mix", ""]
WORD = st.one_of(
    st.builds("{}={}".format, st.sampled_from(KEYS), st.sampled_from(NASTY)),
    st.builds("{}={}".format, st.sampled_from(KEYS), st.integers(-3, 10_000)),
    st.sampled_from([f"{group}={name}" for group, names in GROUPS.items() for name in names]),
    st.builds("{}{}=1".format, st.sampled_from(["+", "++", "~", "@", "--"]), st.sampled_from(KEYS)),
    st.text(st.characters(codec="utf-8"), max_size=12),
)


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Door:
    """The door with nothing behind it: a configuration that is legal counts as done."""
    module: Any = types.ModuleType("mhc_exp.runs.launch")
    result = dataclasses.make_dataclass("Result", ["state", "score", "path", "exit_code", "message"])
    module.launch = lambda config, **_: result("done", None, None, 0, "")
    module.standing = lambda config, sweep: result("waiting", None, None, 1, "")
    monkeypatch.setitem(sys.modules, "mhc_exp.runs.launch", module)
    monkeypatch.setattr("mhc_exp.config.machine.installed", lambda package: True)
    monkeypatch.setattr("mhc_exp.config.machine.cuda_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MHC_RUNS", raising=False)
    return Door(tmp_path, monkeypatch, capfd)


def wrong(door: Door, words: list[str]) -> str | None:
    """Why a command line was not answered as it should be."""
    said = door(*words)
    if "Traceback" in said.err + said.out:
        return f"{words}: a traceback: {said.err[-600:]}"
    if said.code not in (0, 2):
        return f"{words}: exit code {said.code}: {said.err[-600:]}"
    if said.code and not said.err.strip():
        return f"{words}: refused without a word"
    return f"{words}: left {door.left_behind()}" if said.code and door.left_behind() else None


def mutate(door: Door, examples: int) -> int:
    count = 0

    @given(words=st.lists(WORD, min_size=1, max_size=4))
    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    def never_crashes(words: list[str]) -> None:
        nonlocal count
        count += 1
        listings = ("-h", "-i", "-c", "-s", "-m", "-p", "-r", "-cn", "-cp", "-cd", "-sc")
        words = [word for word in words if not word.startswith(listings) and "\x00" not in word]
        assert (reason := wrong(door, ["backend=cpu", *words])) is None, reason

    never_crashes()
    return count


@pytest.mark.fault(row=24)
def test_random_words_are_legal_or_refused_and_never_crash(door: Door, record_property) -> None:
    record_property("trials", mutate(door, 30))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.fault(row=24)
def test_many_random_words_are_legal_or_refused_and_never_crash(door: Door, record_property) -> None:
    record_property("trials", mutate(door, 250))


@pytest.mark.fault(row=24, mutation=True)
def test_a_door_that_does_not_check_would_be_noticed(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "override_problems", lambda overrides, **_: [])
    assert wrong(door, ["depth=deep"]) is None, "composition still refuses it"
    monkeypatch.setattr("mhc_exp.__main__.accept", lambda mapping: mapping["nothing"])
    assert wrong(door, ["depth=deep"]) is not None
