"""The C kernels touch no byte that is not theirs: AddressSanitizer and UBSan on odd shapes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import mhc_exp.torch.kernels
from mhc_exp.torch.kernels import build

SOURCES = Path(mhc_exp.torch.kernels.__file__).parent
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1", "-g", "-std=gnu11")
SHAPES = [(1, 1), (1, 16), (3, 7), (15, 17), (16, 64), (17, 65), (33, 130)]


@pytest.fixture(scope="module")
def sanitizer(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A compiler whose sanitizers work here."""
    command, folder = build.compiler(), tmp_path_factory.mktemp("sanitizer")
    (folder / "empty.c").write_text("int main(void) { return 0; }\n")
    made = subprocess.run([*command, *SANITIZE, "empty.c", "-o", "empty"], cwd=folder, capture_output=True, text=True)
    if made.returncode or subprocess.run([folder / "empty"], capture_output=True).returncode:
        pytest.skip(f"{command[0]} has no AddressSanitizer here: {made.stderr[:200]}")
    return command


SLOW = [
    pytest.param(s, cpu, marks=pytest.mark.slow) for s in (3, 4, 6, 7, 8) for cpu in ("-march=native", "-mavx2", "-O2")
]


@pytest.mark.parametrize(("streams", "cpu"), [(2, "-O2"), (5, "-march=native"), *SLOW])
def test_no_byte_too_far(streams: int, cpu: str, sanitizer: list[str], tmp_path: Path):
    sources = [str(SOURCES / name) for name in build.SOURCES] + [str(Path(__file__).parent / "harness.c")]
    command = [*sanitizer, *SANITIZE, cpu, f"-DSTREAMS={streams}", f"-I{SOURCES}", "-fopenmp", *sources, "-lm"]
    made = subprocess.run([*command, "-o", tmp_path / "harness"], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    for tokens, channels in SHAPES:
        ran = subprocess.run(
            [tmp_path / "harness", str(tokens), str(channels), "2"],
            capture_output=True,
            text=True,
            env={**os.environ, "ASAN_OPTIONS": "detect_leaks=1"},
        )
        assert ran.returncode == 0, ran.stderr[:3000]


def test_the_sources_compile_without_a_warning(tmp_path: Path):
    command = [*build.compiler(), *build.FLAGS, "-march=native", "-fopenmp", "-Wall", "-Wextra", "-Werror"]
    sources = [str(SOURCES / name) for name in build.SOURCES]
    command += ["-DSTREAMS=4", *sources, "-lm", "-o", str(tmp_path / "out.so")]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
