"""`mhc-exp WORD`: both doors know every command, complete it, explain it, and answer a typo or a missing package."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from door import Door

from mhc_exp import commands
from mhc_exp.commands import COMMANDS

DOORS = {
    "mhc-exp": ("-c", "import sys; from mhc_exp.cli import main; sys.argv[0] = 'mhc-exp'; sys.exit(main())"),
    "python -m mhc_exp": ("-m", "mhc_exp"),
}


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Door:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MHC_RUNS", raising=False)
    return Door(tmp_path, monkeypatch, capfd)


@pytest.fixture
def offers(door: Door, monkeypatch: pytest.MonkeyPatch):
    """What the shell is offered for an unfinished line."""

    def ask(line: str) -> list[str]:
        monkeypatch.setenv("COMP_LINE", line)
        said = door("-sc", "query=bash")
        assert (said.code, said.err) == (0, "")
        return said.out.split()

    return ask


def runs_of_a_sweep() -> None:
    for name in ("mhc-d2-cpu-s0-1", "mhc-d2-cpu-s1-2", "hc-d2-cpu-s0-3"):
        directory = Path("runs/depth") / name
        directory.mkdir(parents=True)
        (directory / "run.json").write_text("{}")


def built() -> list[str]:
    return [word for word in COMMANDS if importlib.util.find_spec(COMMANDS[word].where.partition(":")[0])]


@pytest.mark.parametrize("door_words", DOORS.values(), ids=DOORS)
def test_both_doors_lead_to_the_same_rooms(tmp_path: Path, door_words: tuple[str, ...]) -> None:
    def said(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *door_words, *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)

    listed = said("ls", ".")
    assert (listed.returncode, listed.stdout) == (0, "no runs in .; train one: python -m mhc_exp\n")
    typo = said("shwo", "mhc-d2")
    assert (typo.returncode, typo.stdout) == (2, "")
    assert typo.stderr == "mhc-exp shwo: no such command; did you mean mhc-exp show? (mhc-exp --help lists them)\n"
    helped = " ".join(said("--help").stdout.split())
    assert all(f"{word} ({command.does})" in helped for word, command in COMMANDS.items())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("word", built())
def test_a_command_explains_itself(door: Door, word: str) -> None:
    said = door(word, "--help")
    assert said.code == 0
    assert said.out.startswith(f"usage: mhc-exp {word} ")


def test_a_word_that_is_nearer_to_a_key_or_an_option_is_no_typo_of_a_command(door: Door) -> None:
    assert "did you mean depth=...?" in door("dept").err
    assert "did you mean variant=mhc?" in door("mhc").err
    assert "no such flag" in door("--shwo").err
    assert door("train", "--cfg", "job").code == door("--cfg", "job").code == 0


def test_the_shell_is_offered_commands_beside_overrides(offers) -> None:
    assert {*COMMANDS, "train", "variant=", "depth="} <= {*offers("mhc-exp ")}
    assert offers("mhc-exp sh") == ["show"]
    assert {"train", "training="} <= {*offers("mhc-exp tr")}
    assert "variant=mhc" in offers("mhc-exp train variant=mh")
    assert not {*COMMANDS} & {*offers("mhc-exp train ")}
    assert "variant=mhc" in offers("mhc-exp plan variant=mh")


def test_the_shell_is_offered_runs_after_a_command(offers, monkeypatch: pytest.MonkeyPatch) -> None:
    assert offers("mhc-exp show ") == []
    runs_of_a_sweep()
    assert offers("mhc-exp show mhc") == ["mhc-d2-cpu-s0-1", "mhc-d2-cpu-s1-2"]
    assert offers("mhc-exp compare mhc-d2-cpu-s0-1 runs/depth/h") == ["runs/depth/hc-d2-cpu-s0-3"]
    assert offers("mhc-exp ls runs")[:2] == ["runs", "runs/depth"]
    assert offers("mhc-exp dashboard ") == []
    elsewhere = Path("elsewhere").absolute()
    Path("runs").rename(elsewhere)
    monkeypatch.setenv("MHC_RUNS", str(elsewhere))
    assert offers(f"mhc-exp upload {elsewhere}/depth/h") == [f"{elsewhere}/depth/hc-d2-cpu-s0-3"]


def test_bash_puts_the_answer_on_the_command_line(tmp_path: Path) -> None:
    program = tmp_path / "mhc-exp"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {DOORS["mhc-exp"][0]} "{DOORS["mhc-exp"][1]}" "$@"\n')
    program.chmod(0o755)
    script = (
        'PATH=$PWD:$PATH; eval "$(mhc-exp -sc install=bash)"\n'
        'COMP_LINE="mhc-exp compa" COMP_CWORD=1 COMP_POINT=13; hydra_bash_completion; echo "${COMPREPLY[@]}"\n'
    )
    said = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (said.stdout, said.stderr) == ("compare\n", "")


@pytest.mark.parametrize(("package", "extra"), commands.EXTRAS.items())
def test_a_missing_package_is_one_line_that_says_what_to_type(
    door: Door, monkeypatch: pytest.MonkeyPatch, package: str, extra: str
) -> None:
    (door.directory / "needing.py").write_text(f"import {package}.part\n")
    monkeypatch.syspath_prepend(door.directory)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "needing", raising=False)
    monkeypatch.setitem(COMMANDS, "needy", commands.Command("needs much", "needing:main"))
    said = door("needy")
    answer = f"mhc-exp needy: needs {package}, which is not installed; type: pip install 'mhc-exp[{extra}]'\n"
    assert (said.code, said.out, said.err) == (2, "", answer)
