"""The start of a run: composed once and to the same thing as by Hydra's entry, in phases, without half of PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mhc_exp import startup
from mhc_exp.config.compose import compose_mapping, compose_plain

WORDS = [
    [],
    ["variant=mhc", "depth=48", "backend=cpu"],
    ["experiment=seed_demo", "+variant.mix.tau=0.5"],
    ["dataset=kjv", "training.steps=3", "name=mine", "runs_root='/tmp/a b'"],
]


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_composing_once_gives_what_hydra_composes(words: list[str]) -> None:
    try:
        expected = compose_mapping(words)[0]
    except Exception:
        expected = None
    found = compose_plain(words)
    assert (None if found is None else OmegaConf.to_container(found, resolve=True)) == expected


@pytest.mark.parametrize(
    "word",
    ["hydra.job.env_set.OF_HYDRA=1", "+hydra.callbacks.mine.x=1", "hydra.searchpath=[a]", "sweep=wirings", "depht=3"],
)
def test_what_hydra_has_to_do_itself_is_left_to_it(word: str) -> None:
    assert compose_plain(["variant=mhc", word]) is None


def test_phases_are_in_order_and_a_process_starts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10, 100, 10))
    monkeypatch.setattr(startup, "_reached", {"python": (1.0, 0.5)})
    monkeypatch.setattr(startup, "_began", lambda: 0.25)
    monkeypatch.setattr(startup.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(startup.time, "process_time", lambda: 4.0)
    assert startup.reached("data")
    assert not startup.reached("data")
    assert startup.reached("first step")
    assert not startup.reached("evaluation")
    assert startup.phases() == {"python": [0.75, 0.5], "data": [9.0, 3.5], "first step": [10.0, 0.0]}


def test_a_process_begins_before_its_first_line() -> None:
    assert 0 < startup.phases()["python"][0] < 3600


def test_a_run_records_its_start_and_imports_no_compiler_of_pytorch(tmp_path: Path) -> None:
    words = ["variant=mhc", "depth=1", "model.width=8", "model.heads=1", "dataset=pointer_chasing", "tracking=local"]
    words += ["backend=cpu", "training=smoke", "training.steps=1", "name=one", f"runs_root={tmp_path}"]
    program = f"import sys; sys.argv = ['mhc-exp', *{words!r}]\nfrom mhc_exp import cli, startup\ncode = cli.main()\n"
    program += (
        "print('heavy', code, [name for name in ('torch._dynamo', 'sympy', 'pandas', 'wandb') if name in sys.modules])"
    )
    program = program.replace(
        "code = cli.main()", "import mhc_exp.runs.worker as w; w._show = lambda *_: None\ncode = cli.main()"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "heavy 0 []" in said.stdout, said.stderr
    record = json.loads((tmp_path / "single" / "one" / "run.json").read_text())
    assert list(record["startup"]) == list(startup.PHASES)
    assert all(wall >= 0 and cpu >= 0 for wall, cpu in record["startup"].values())
    total = sum(wall for wall, _ in record["startup"].values())
    assert record["seconds_to_first_step"] == pytest.approx(total)


def test_a_module_of_the_backend_is_imported_without_the_library_for_other_peoples_models() -> None:
    program = "import sys, mhc_exp.torch.kernels.wirings as w; print('mhc_exp.torch.library' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"
    said = subprocess.run([sys.executable, "-c", "from mhc_exp.torch import StreamConnection"], check=False)
    assert said.returncode == 0


def test_a_real_blas_is_loaded_before_mlx_and_its_absence_says_what_to_type() -> None:
    found = _of_blas("import mhc_exp.mlx.blas as b")
    assert found.returncode == 0, found.stderr
    assert "mkl" in found.stdout or "openblas" in found.stdout
    missing = "import mhc_exp.mlx.blas as b; b._mkl = lambda: None; b.ctypes.util.find_library = lambda name: None"
    said = _of_blas(missing)
    assert said.stdout.strip() == "None"
    assert "type: pip install mkl" in said.stderr


def _of_blas(prepare: str) -> subprocess.CompletedProcess[str]:
    """What load_fast_blas does in a process that has not imported mlx, as the package itself would have."""
    empty = "import sys, types, mhc_exp; p = types.ModuleType('mhc_exp.mlx'); "
    empty += "p.__path__ = [mhc_exp.__path__[0] + '/mlx'];"
    program = f"{empty} sys.modules['mhc_exp.mlx'] = p; {prepare}; print(b.load_fast_blas())"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
