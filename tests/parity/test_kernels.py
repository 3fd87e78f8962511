"""The native tier answers to the eager one in float64: outputs and all gradients, odd shapes included."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiers import CASES, TOLERANCE, compared, step, variant_of
from torch import Tensor

from mhc_exp.config import machine
from mhc_exp.config.build import as_mapping
from mhc_exp.config.build import build as build_config
from mhc_exp.config.checks import check
from mhc_exp.config.compose import compose
from mhc_exp.config.naming import config_hash
from mhc_exp.data import make_task
from mhc_exp.data.task import Batch
from mhc_exp.torch.kernels import build, gpu, native
from mhc_exp.torch.kernels.choice import choose
from mhc_exp.torch.kernels.eager import Eager
from mhc_exp.torch.kernels.native import Native
from mhc_exp.torch.kernels.proof import difference
from mhc_exp.torch.streams import HyperConnection
from mhc_exp.torch.trainer import TorchTrainer
from mhc_exp.training.backends import BackendMissing, make_trainer


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_equal_the_eager_tier(case: str):
    assert compared(case, streams=4, width=96, tokens=50, seed=0) < TOLERANCE


@pytest.mark.parametrize("streams", range(2, 9))
def test_any_number_of_streams(streams: int):
    assert compared("mhc", streams, width=33, tokens=17, seed=streams) < TOLERANCE
    assert compared("mhc static", streams, width=33, tokens=17, seed=streams) < TOLERANCE


@settings(max_examples=30, deadline=None)
@given(
    case=st.sampled_from(sorted(CASES)),
    streams=st.sampled_from([2, 4, 5]),
    width=st.integers(1, 150),
    tokens=st.integers(1, 70),
    seed=st.integers(0, 1000),
)
def test_any_shape(case: str, streams: int, width: int, tokens: int, seed: int):
    found = compared(case, streams, width, tokens, seed)
    if found > TOLERANCE:  # numbers that float32 cannot tell apart: then PyTorch's own operations err as much
        assert found < 4 * compared(case, streams, width, tokens, seed, tier=lambda _: Eager())


def test_usual_errors_are_those_of_single_precision():
    errors = [compared(case, 4, 32 + seed, 20 + seed, seed) for case in CASES for seed in range(4)]
    assert np.median(errors) < 1e-6


@pytest.mark.parametrize("case", ["mhc", "softmax start, rows last", "deepseek_v4"])
def test_far_apart_logits(case: str):
    """Logits hundreds apart: rows of the first matrix are below the smallest float, and nothing may become NaN."""
    found, usual = (
        compared(case, 4, width=16, tokens=40, seed=3, spread=60.0, tier=t) for t in (Native, lambda _: Eager())
    )
    assert found < max(TOLERANCE, 10 * usual)  # scalings cancel a little more than matrices do


@pytest.mark.parametrize("flags", [("-mavx2", "-mfma"), ("-march=x86-64",)])
def test_kernels_for_other_instruction_sets(flags: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What an older x86 machine compiles; vectors of 4 are also what ARM gets."""
    if platform.machine() != "x86_64":
        pytest.skip("flags of x86")
    path = build.compile_kernels(build.compiler(), 4, tmp_path, "other", [flags])
    monkeypatch.setattr(native, "library", lambda streams: build.Library(path))
    for case in ("mhc", "mhc static", "identity_hc", "deepseek_v4"):
        assert compared(case, streams=4, width=39, tokens=21, seed=5) < TOLERANCE


@pytest.mark.fault(row=22)
@pytest.mark.parametrize("case", ["mhc", "mhc static"])
def test_the_same_bits_every_time_and_nearly_the_same_with_two_threads(case: str):
    def gradients() -> list[Tensor]:
        random = torch.Generator().manual_seed(0)
        x = torch.randn(500, 4, 40, generator=random).requires_grad_()
        variant = variant_of(case, 4)
        connection = HyperConnection(variant, 40)
        with torch.no_grad():
            for parameter in connection.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=random))
        streams = step(Native(variant), connection, x, None)[0]
        return list(torch.autograd.grad(streams.square().sum(), [x, *connection.parameters()]))

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one, again = gradients(), gradients()
        torch.set_num_threads(2)
        two = gradients()
    finally:
        torch.set_num_threads(threads)
    for first, second, third in zip(one, again, two, strict=True):
        assert first.abs().max() > 1e-3
        assert torch.equal(first, second)
        assert (first - third).abs().max() < 1e-5 * first.abs().max()


def test_a_nan_reaches_what_it_touches_and_nothing_else():
    variant = variant_of("mhc", 4)
    x = torch.ones(40, 4, 20)
    x[3, 1, 2] = float("nan")
    streams = step(Native(variant), HyperConnection(variant, 20), x, None)[0].detach()
    assert streams[3].isnan().all()
    assert not streams[:3].isnan().any()
    assert not streams[4:].isnan().any()


def test_other_precisions_are_refused():
    variant = variant_of("mhc", 4)
    with pytest.raises(TypeError, match=r"float32 tensors on the CPU, not torch.float64"):
        Native(variant).read(torch.ones(2, 4, 3, dtype=torch.float64), torch.ones(4, 2))


def _model(*overrides: str) -> tuple[TorchTrainer, Batch]:
    config = compose(["depth=2", "backend=cpu", "dataset=pointer_chasing", *overrides])
    task = make_task(config)
    return TorchTrainer(config, task.vocab_size), task.batch(0, 4)


@pytest.mark.parametrize("variant", ["mhc", "hc", "deepseek_v41", "hyperloop", "mhc_lite", "mhc_lss"])
def test_a_whole_model_has_the_gradients_of_the_eager_tier(variant: str):
    (eager, batch), (native_one, _) = (
        _model(f"variant={variant}", f"backend.kernels={k}") for k in ("eager", "native")
    )
    assert eager.kernels == "eager"
    assert native_one.kernels.startswith("native: read, write")
    expected, found = eager.gradients(batch), native_one.gradients(batch)
    for name, gradient in expected.items():
        assert np.abs(gradient - found[name]).max() <= 2e-5 * max(np.abs(gradient).max(), 1e-6), name


def test_bfloat16_arithmetic_of_the_body_leaves_streams_in_float32():
    (eager, batch), (fast, _) = (
        _model("variant=mhc", "backend.dtype=bfloat16", f"backend.kernels={k}") for k in ("eager", "native")
    )
    assert abs(eager.mean_loss(batch).item() - fast.mean_loss(batch).item()) < 1e-3


def test_without_a_compiler_the_run_says_so_and_is_eager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    build.library.cache_clear()
    try:
        assert _model("variant=mhc")[0].kernels == "eager: there is no C compiler (looked for $CC, cc, gcc and clang)"
        with pytest.raises(BackendMissing, match=r"no C compiler .*; type backend.kernels=auto"):
            make_trainer(compose(["depth=1", "backend=cpu", "variant=mhc", "backend.kernels=native"]), 10)
    finally:
        build.library.cache_clear()


@pytest.mark.parametrize("script", ["exit 1", "echo 'lanes.h:1: sorry' >&2; exit 1"])
def test_a_compiler_that_fails(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    broken = tmp_path / "cc"
    broken.write_text(f"#!/bin/sh\n{script}\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    monkeypatch.setenv("MHC_CACHE", str(tmp_path / "cache"))
    build.library.cache_clear()
    try:
        with pytest.raises(build.Unavailable, match=r"cannot compile the kernels: (no message|lanes.h:1: sorry)"):
            build.library(4)
        assert list((tmp_path / "cache" / "kernels").iterdir()) == []
    finally:
        build.library.cache_clear()


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MHC_CACHE", str(tmp_path / "file"))
    build.library.cache_clear()
    try:
        with pytest.raises(build.Unavailable, match=r"cannot be written .*; set MHC_CACHE to a directory that can"):
            build.library(4)
    finally:
        build.library.cache_clear()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["variant=baseline", "backend=cpu"], "baseline is one of residual; type backend.kernels=auto"),
        (["variant=mhc", "backend=mlx"], "native is for backend=cpu or cuda, not mlx"),
        (["variant=mhc", "variant.streams=9", "backend=cpu"], "native is for 2 to 8 streams, not 9"),
    ],
)
def test_native_where_it_cannot_be(overrides: list[str], message: str):
    assert message in "\n".join(str(problem) for problem in check(compose([*overrides, "backend.kernels=native"])))


def test_asking_for_a_tier_by_name_is_a_run_of_its_own_and_auto_is_not():
    auto, old = (compose(["variant=mhc", "backend=cpu", *more]) for more in ([], []))
    eager = compose(["variant=mhc", "backend=cpu", "backend.kernels=eager"])
    assert config_hash(auto) == config_hash(old) != config_hash(eager)
    mapping = as_mapping(auto)
    del mapping["backend"]["kernels"]  # a run that was made before there were tiers
    assert config_hash(build_config(mapping)) == config_hash(auto)


def test_on_cuda_without_triton_the_run_says_so_and_is_eager(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "installed", lambda package: package != "triton")
    auto, native_one = (compose(["variant=mhc", "backend=cpu", f"backend.kernels={k}"]) for k in ("auto", "native"))
    assert choose(auto, torch.device("cuda")).text == "eager: the package triton is not installed"
    with pytest.raises(build.Unavailable, match="the package triton is not installed"):
        choose(native_one, torch.device("cuda"))
    on_cuda = dataclasses.replace(native_one, backend=dataclasses.replace(native_one.backend, name="cuda"))
    assert "type: pip install triton, or type backend.kernels=auto" in "\n".join(map(str, check(on_cuda)))


@pytest.mark.parametrize("case", CASES)
def test_what_proves_a_tier_sees_one_that_is_wrong(case: str, monkeypatch: pytest.MonkeyPatch):
    variant, device = variant_of(case, 4), torch.device("cpu")
    assert difference(Native(variant), variant, device) < gpu.TOLERANCE
    right = Eager.write
    monkeypatch.setattr(Eager, "write", lambda self, x, y, coefficients: right(self, x, 1.001 * y, coefficients))
    assert difference(Native(variant), variant, device) > gpu.TOLERANCE
