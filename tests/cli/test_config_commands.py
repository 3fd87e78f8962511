"""What the door offers beside refusals: help, listings, completion, multiruns, exit codes, and a wheel that works."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tomllib
import types
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from door import Door

from mhc_exp.cli import as_typed
from mhc_exp.config import machine, vocabulary
from mhc_exp.config.schema import Config

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Door:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MHC_RUNS", raising=False)
    return Door(tmp_path, monkeypatch, capfd)


def shell(*words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=False, timeout=60
    )


# --- listings ------------------------------------------------------------------------------------------------------


def test_help_fits_a_screen_and_names_every_option_and_exit_code(door: Door) -> None:
    said = door("--help")
    assert said.code == 0
    assert len(said.out.splitlines()) <= 32
    for group in (*vocabulary.GROUPS, *vocabulary.OVERLAYS):
        assert f"{group}: {', '.join(vocabulary.options(group))}" in said.out
    for code in ("0 done", "1 failed", "2 refused", "3 diverged", "130/143 interrupted"):
        assert code in said.out
    assert door.left_behind() == []


@pytest.mark.parametrize("words", [("--cfg", "job", "depth=3"), ("depth=3", "--cfg", "job"), ("-c", "job", "depth=3")])
def test_the_configuration_can_be_shown_without_running_it(door: Door, words: tuple[str, ...]) -> None:
    said = door("variant=mhc", *words)
    assert said.code == 0
    assert "depth: 3\n" in said.out
    assert "  name: mhc\n" in said.out
    assert door.left_behind() == []


def test_showing_a_configuration_checks_its_words_too(door: Door) -> None:
    assert door("--cfg", "job", "dept=3").code == 2


def test_own_options_can_live_in_another_directory(door: Door) -> None:
    own = door.directory / "mine" / "variant"
    own.mkdir(parents=True)
    (own / "wide.yaml").write_text("defaults: [mhc, _self_]\nname: wide\nstreams: 8\n")
    said = door("--config-dir", "mine", "variant=wide", "variant.alpha=0.5", "--cfg", "job", "-p", "variant")
    assert said.code == 0
    assert "streams: 8" in said.out
    assert "alpha: 0.5" in said.out


def test_version_names_both_programs(door: Door) -> None:
    assert door("--version").out.startswith("mhc-exp 0.")


@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("mhc-exp variant=", "variant=mhc"),
        ("mhc-exp variant=mh", "variant=mhc"),
        ("mhc-exp train variant=mh", "variant=mhc"),
        ("mhc-exp sweep=", "sweep=depth"),
        ("mhc-exp optimizer.l", "optimizer.lr="),
    ],
)
def test_completion_offers_options_and_keys(tmp_path: Path, line: str, offers: str) -> None:
    script = "import sys; from mhc_exp.cli import main; sys.argv[0] = 'mhc-exp'; sys.exit(main())"
    said = shell(
        *(sys.executable, "-c", script, "-sc", "query=bash"), cwd=tmp_path, COMP_LINE=line, COMP_POINT=str(len(line))
    )
    assert said.returncode == 0
    assert offers in said.stdout.split()


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m mhc_exp --help | true; exit ${{PIPESTATUS[0]}}"
    said = shell("bash", "-c", command, cwd=tmp_path)
    assert said.returncode == 0
    assert said.stderr == ""


def test_the_door_opens_without_the_heavy_packages(tmp_path: Path) -> None:
    heavy = "'torch', 'mlx', 'mlx.core', 'wandb', 'pandas', 'matplotlib'"
    said = shell(
        *(sys.executable, "-c", f"import sys, mhc_exp.__main__; print({{{heavy}}} & set(sys.modules))"), cwd=tmp_path
    )
    assert said.stdout == "set()\n"


# --- what a launch returns becomes an exit code --------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    state: str
    score: float | None = None
    path: Path | None = None
    exit_code: int = 0
    message: str = ""


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Every call of launch, which here ends in a way that the depth decides."""
    calls: list[dict[str, Any]] = []

    def launch(config: Config, **circumstances: Any) -> Result:
        calls.append({"config": config, **circumstances})
        match config.depth:
            case 11:
                raise ValueError("a bug")
            case 12:
                return Result("refused", exit_code=2, message="name: the directory holds another configuration")
            case 13:
                return Result("diverged", exit_code=3, path=Path("runs/x"))
            case 14:
                return Result("interrupted", exit_code=128 + signal.SIGTERM, path=Path("runs/x"))
            case 15:
                raise KeyboardInterrupt
        return Result("done" if config.depth > 1 else "skipped", 1.25, Path("runs/x"))

    module = types.ModuleType("mhc_exp.runs.launch")
    module.launch = launch  # type: ignore[attr-defined]
    module.standing = lambda config, sweep: Result("waiting", exit_code=1)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mhc_exp.runs.launch", module)
    monkeypatch.setattr(machine, "installed", lambda package: True)
    return calls


@pytest.mark.parametrize(("depth", "code"), [(1, 0), (2, 0), (11, 1), (12, 2), (13, 3), (14, 143), (15, 130)])
def test_the_end_of_a_run_is_the_exit_code(door: Door, launched: list[dict[str, Any]], depth: int, code: int) -> None:
    said = door("train", "backend=cpu", f"depth={depth}")
    assert said.code == code
    assert len(launched) == 1
    assert launched[0]["config"].depth == depth
    assert (launched[0]["sweep"], launched[0]["multirun"]) == (None, False)
    assert ("ValueError: a bug" in said.err) == (depth == 11)
    assert ("holds another configuration" in said.err) == (depth == 12)
    assert door.left_behind() == []


def test_a_bad_end_does_not_stop_the_jobs_after_it(door: Door, launched: list[dict[str, Any]]) -> None:
    said = door("-m", "backend=cpu", "depth=11,12,13,2", "model.width=64,72")
    assert said.code == 1
    assert [call["config"].depth for call in launched] == [11, 11, 12, 12, 13, 13, 2, 2]
    table = said.out[said.out.index("job  state") :].splitlines()
    states = [line.split()[1] for line in table[1:9]]
    assert states == ["failed"] * 2 + ["refused"] * 2 + ["diverged"] * 2 + ["done"] * 2
    assert table[7].split(maxsplit=4) == [
        *("7", "done", "1.2500", "runs/x", "mhc-exp -m backend=cpu depth=2 model.width=64")
    ]
    assert table[9].startswith("6 of 8 are not done; the same command again")


def test_a_job_that_could_not_run_is_refused_before_the_first_job(door: Door, launched: list[dict[str, Any]]) -> None:
    said = door("-m", "backend=cpu", "depth=2,3", "model.width=64,66", "training.accumulation=3")
    assert said.code == 2
    assert said.err.count("66 is not divisible") == 1
    assert "(jobs 2, 4 of 4)" in said.err
    assert "training.accumulation" in said.err
    assert (launched, door.left_behind()) == ([], [])


def test_jobs_that_would_share_a_directory_are_refused(door: Door, launched: list[dict[str, Any]]) -> None:
    said = door("-m", "backend=cpu", "depth=2,3", "name=mine")
    assert said.code == 2
    assert "several jobs would share the directory 'mine'" in said.err
    assert (launched, door.left_behind()) == ([], [])


@pytest.mark.parametrize(("depths", "code"), [("1,2", 0), ("2,13", 3), ("12,2", 1), ("12", 2), ("13,11", 1)])
def test_a_multirun_succeeds_only_if_every_job_does(
    door: Door, launched: list[dict[str, Any]], depths: str, code: int
) -> None:
    assert door("-m", "backend=cpu", f"depth={depths}").code == code


@pytest.mark.parametrize(("depth", "code"), [(14, 143), (15, 130)])
def test_a_signal_ends_the_sweep_and_still_prints_the_table(
    door: Door, launched: list[dict[str, Any]], depth: int, code: int
) -> None:
    said = door("-m", "backend=cpu", f"depth=2,{depth},3")
    assert said.code == code
    assert len(launched) == 2
    assert [line.split()[1] for line in said.out.splitlines()[-4:-1]] == ["done", "interrupted", "waiting"]


def test_a_sweep_file_is_the_sweep_and_the_command_line_wins(door: Door, launched: list[dict[str, Any]]) -> None:
    said = door("-m", "sweep=depth", "depth=2,3", "backend=cpu")
    assert said.code == 0
    runs = [(call["config"].variant.name, call["config"].depth) for call in launched]
    assert runs == [
        (variant, depth) for variant in ("baseline", "hc", "mhc", "demo_hc", "demo_mhc") for depth in (2, 3)
    ]
    assert {(call["sweep"], call["multirun"]) for call in launched} == {("depth", True)}
    assert door.left_behind() == ["runs", "runs/depth", "runs/depth/multirun.yaml"]


def test_a_multirun_without_a_file_has_a_name_too(door: Door, launched: list[dict[str, Any]]) -> None:
    door("-m", "backend=cpu", "seed=range(2)")
    assert [(call["config"].seed, call["sweep"]) for call in launched] == [(0, "multirun"), (1, "multirun")]


def test_the_parity_sweep_runs_both_backends_at_the_smoke_size(door: Door, launched: list[dict[str, Any]]) -> None:
    assert door("-m", "sweep=backend_parity").code == 0
    assert {call["config"].backend.name for call in launched} == {"cpu", "mlx"}
    assert {(call["config"].depth, call["config"].training.steps) for call in launched} == {(2, 20)}


def test_launch_learns_the_command_as_it_was_typed(door: Door, launched: list[dict[str, Any]]) -> None:
    door("depth=2", "backend=cpu")
    assert launched[0]["command"] == ["mhc-exp", "depth=2", "backend=cpu"]
    assert as_typed(["/site/mhc_exp/__main__.py", "-m"]) == ["python", "-m", "mhc_exp", "-m"]


def test_the_environment_says_where_runs_go(
    door: Door, launched: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MHC_RUNS", "elsewhere")
    door("depth=2", "backend=cpu")
    assert launched[0]["config"].runs_root == "elsewhere"


# --- a wheel in an empty directory ---------------------------------------------------------------------------------


def test_a_wheel_carries_its_configuration_and_sweeps(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    if not (REPOSITORY / "README.md").is_file():
        pytest.skip("the package cannot be built without its README.md")
    built = shell(
        *(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")), cwd=REPOSITORY
    )
    assert built.returncode == 0, built.stderr
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    with zipfile.ZipFile(next((tmp_path / "dist").glob("*.whl"))) as wheel:
        wheel.extractall(site)
    where = shell(sys.executable, "-c", "import mhc_exp; print(mhc_exp.__file__)", cwd=empty, PYTHONPATH=str(site))
    assert where.stdout.startswith(str(site))
    shown = shell(*(sys.executable, "-m", "mhc_exp", "variant=mhc", "--cfg", "job"), cwd=empty, PYTHONPATH=str(site))
    assert "  name: mhc\n" in shown.stdout
    helped = shell(sys.executable, "-m", "mhc_exp", "--help", cwd=empty, PYTHONPATH=str(site))
    assert "sweep: backend_parity, chart, depth" in helped.stdout
    assert list(empty.iterdir()) == []


def test_every_package_that_make_installs_is_pinned() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    apart = {"hub", "keras"}  # keras: tests/library/requirements.txt
    lines = [line for name, extra in extras.items() if name not in apart for line in extra]
    wanted = [*project["dependencies"], *lines]
    names = {re.split(r"[\[<>=!~; ]", line)[0].lower() for line in wanted} - {"mhc-exp"}
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pinned = {line.partition("==")[0].lower() for line in lines if "==" in line and not line.startswith("#")}
    assert names <= pinned
    assert all(re.fullmatch(r"#.*|[\w.-]+==[\w.]+|", line) for line in lines)
