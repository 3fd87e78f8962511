"""Row 25: configurations made to run code, to leave their directory, or to read what is not theirs."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from run_cases import go, make, small_config

from mhc_exp.config import foreign, overrides
from mhc_exp.config.checks import accept
from mhc_exp.config.compose import compose_mapping
from mhc_exp.config.foreign import foreign_problems
from mhc_exp.config.naming import slug_problem
from mhc_exp.config.overrides import override_problems

TARGETS = [
    *("os.system", "builtins.eval", "builtins.exec", "builtins.open", "subprocess.Popen", "subprocess.check_output"),
    *("pickle.loads", "pickle.load", "importlib.import_module", "runpy.run_path", "shutil.rmtree", "shutil.copy"),
    *("torch.load", "torch.hub.load", "distutils.spawn.spawn", "pandas.read_pickle", "pandas.eval", "numpy.load"),
    *("numpy.testing.rundocs", "ctypes.CDLL", "webbrowser.open", "os.popen", "os.remove", "pty.spawn", "code.interact"),
    *("wandb.init", "logging.config.dictConfig", "timeit.timeit", "builtins.__import__", "multiprocessing.Process"),
]
FILES = {
    "callback": "# @package _global_\nhydra: {callbacks: {x: {_target_: TARGET, cmd: [touch, MARK]}}}\n",
    "launcher": "# @package _global_\nhydra: {launcher: {_target_: TARGET}}\n",
    "logging": '# @package _global_\nhydra: {job_logging: {handlers: {x: {"()": TARGET, command: touch MARK}}}}\n',
    "environment": "# @package _global_\nhydra: {job: {env_set: {LD_PRELOAD: MARK}}}\n",
    "package of the file": "# @package hydra.callbacks.x\n_target_: TARGET\n",
    "package of a default": "defaults: [{variant@hydra.callbacks.x: mhc}]\n",
    "chosen launcher": "# @package _global_\ndefaults: [{override /hydra/launcher: submitit_local}]\n",
    "in the variant": "defaults: [mhc, _self_]\nmix: {_target_: TARGET}\n",
    "factory of logging": 'defaults: [mhc, _self_]\nmix: {"()": TARGET}\n',
    "python object": "name: !!python/object/apply:os.system ['touch MARK']\n",
    "python name": "name: !!python/name:os.system\n",
    "two documents": "name: a\n---\nhydra: {callbacks: {x: {_target_: TARGET}}}\n",
    "deep": "name: " + "[" * 3000 + "]" * 3000 + "\n",
    "too large": "# " + "x" * 1_100_000 + "\nname: a\n",
    "not text": "name: \udcff\n",
}


def own(root: Path, text: str, group: str = "experiment") -> Path:
    place = root / "own" / group
    place.mkdir(parents=True)
    text = text.replace("TARGET", "distutils.spawn.spawn").replace("MARK", str(root / "mark"))
    (place / "evil.yaml").write_text(text, encoding="utf-8", errors="surrogateescape")
    return root / "own"


@pytest.mark.fault(row=25)
@pytest.mark.parametrize("target", TARGETS)
def test_no_target_is_accepted_anywhere(target: str) -> None:
    for key in (
        "hydra.callbacks.x._target_",
        "+variant._target_",
        "++model._target_",
        "hydra.launcher._target_",
        "_target_",
    ):
        assert override_problems([f"{key}={target}"]), key
    assert override_problems([f"+variant={{_target_:{target}}}"])
    assert override_problems([f"hydra.job_logging.handlers.x={{class:{target}}}"])


@pytest.mark.fault(row=25)
@pytest.mark.parametrize("kind", FILES)
def test_a_file_from_outside_that_could_run_code_is_refused_before_hydra_reads_it(kind: str, tmp_path: Path) -> None:
    problems = foreign_problems([own(tmp_path, FILES[kind])])
    assert len(problems) == 1
    assert "evil.yaml" in problems[0].path


@pytest.mark.fault(row=25)
def test_options_of_hydra_cannot_come_from_outside_and_links_are_followed(tmp_path: Path) -> None:
    assert "replace a part of Hydra" in foreign_problems([own(tmp_path, "a: 1", "hydra/launcher")])[0].message
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "experiment").symlink_to(own(tmp_path / "two", FILES["callback"]) / "experiment")
    assert foreign_problems([linked])
    (linked / "pipe.yaml").symlink_to("/dev/zero")
    assert any("plain file" in problem.message for problem in foreign_problems([linked]))


@pytest.mark.fault(row=25)
def test_what_only_describes_runs_may_come_from_outside(tmp_path: Path) -> None:
    fine = "# @package _global_\ndepth: 3\nhydra: {sweep: {dir: x}, sweeper: {params: {seed: 'range(3)'}}}\n"
    assert foreign_problems([own(tmp_path, fine)]) == []
    assert foreign_problems([own(tmp_path / "b", "defaults: [mhc, _self_]\nname: wide\nstreams: 8\n", "variant")]) == []


@pytest.mark.fault(row=25)
@pytest.mark.parametrize("place", ["pkg://os", "structured://", "https://example.org/x", "relative/x"])
def test_hydra_searches_nothing_but_directories(place: str) -> None:
    assert any("searchpath" in problem.path for problem in override_problems([f"hydra.searchpath=['{place}']"]))


ATTACK = ["experiment=evil", "model.width=65"]
"""The width is refused after composition: nothing is trained, whatever happens."""


def attacked(root: Path, script: str) -> bool:
    """Whether the file of a callback ran code when a command named it."""
    place = own(root, FILES["callback"])
    program = f"import sys; from mhc_exp import cli, __main__ as door\n{script}\nsys.exit(cli.enter(door.main))"
    command = [sys.executable, "-W", "ignore", "-c", program, f"--config-dir={place}", *ATTACK]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    return (root / "mark").exists()


@pytest.mark.fault(row=25)
def test_a_callback_in_a_file_from_outside_never_runs(tmp_path: Path) -> None:
    assert not attacked(tmp_path, "")


@pytest.mark.fault(row=25, mutation=True)
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="the target of this attack is gone from Python 3.12")
def test_hydra_itself_would_have_run_it(tmp_path: Path) -> None:
    script = "from mhc_exp.config import overrides; overrides.foreign_problems = lambda *_: []"
    assert attacked(tmp_path, script)


@pytest.mark.fault(row=25, mutation=True)
def test_a_reader_without_the_rules_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "_refusals", lambda content: iter(()))
    assert foreign_problems([own(tmp_path, FILES["callback"])]) == []
    monkeypatch.setattr(overrides, "THAT_CALL", ("nothing",))
    assert override_problems(["hydra.job_logging.handlers.x={class:os.system}"]) == []


# --- names -----------------------------------------------------------------------------------------------------------

NAMES = [
    *(
        "../evil",
        "..",
        ".",
        "a/../../b",
        "/etc/passwd",
        "~root",
        "a\x00b",
        "a\nb",
        "x" * 300,
        "",
        " ",
        "con",
        "NUL.txt",
    ),
    *("-rf", ".hidden", "a/b", "a\\b", "ａ", "e\u0301", "$(touch x)", "`x`", "a;b", "|x", "<script>", "=HYPERLINK(1)"),
    *("a.", "a..b", "\u202egpj", "name with spaces", "*", "?", "\x1b[2J", "com1", "'", '"', "%s", "{0}", "@x", "+1"),
]


@pytest.mark.fault(row=25)
@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_hostile_name_is_refused_and_makes_nothing(name: str, tmp_path: Path) -> None:
    config = dataclasses.replace(small_config(str(tmp_path / "runs")), name=name)
    assert slug_problem(name)
    assert go(config).exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault(row=25, mutation=True)
def test_without_the_rule_of_names_a_run_would_leave_its_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mhc_exp.config.naming.slug_problem", lambda name: None)
    monkeypatch.setattr("mhc_exp.runs.directory.slug_problem", lambda name: None)
    config = dataclasses.replace(small_config(str(tmp_path / "runs")), name="../../evil")
    (tmp_path / "runs" / "single").mkdir(parents=True)
    make(config)
    assert (tmp_path / "evil").exists()


@pytest.mark.fault(row=25)
@pytest.mark.parametrize(
    "value", ["${oc.env:CANARY_TOKEN}", "${oc.decode:${oc.env:CANARY_TOKEN}}", "a-${oc.env:CANARY_TOKEN}"]
)
@pytest.mark.parametrize("key", ["tracking.project", "tracking.entity", "name", "runs_root", "tracking.tags"])
def test_an_interpolation_cannot_carry_a_secret_into_the_record(key: str, value: str, monkeypatch) -> None:
    from mhc_exp.config.build import ConfigError

    monkeypatch.setenv("CANARY_TOKEN", "canary-0123456789")
    word = f"{key}=['{value}']" if key.endswith("tags") else f"{key}='{value}'"
    mapping = compose_mapping(["backend=cpu", word])[0]
    with pytest.raises(ConfigError) as refused:
        accept(mapping)
    assert any(problem.path == key and "secret" in problem.message for problem in refused.value.problems)
