"""The Triton kernels answer to the eager tier in float64: in Triton's interpreter (`make triton`), or on a GPU.

On a machine with a GPU and Triton: python -m pytest -m triton tests/triton_tier
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiers import CASES, TOLERANCE, compared, step, variant_of
from torch import Tensor

from mhc_exp.config import machine
from mhc_exp.config.compose import compose
from mhc_exp.config.variants import Streams
from mhc_exp.data import make_task
from mhc_exp.torch.kernels import gpu
from mhc_exp.torch.kernels.build import Unavailable
from mhc_exp.torch.kernels.choice import install
from mhc_exp.torch.kernels.eager import Eager
from mhc_exp.torch.kernels.fused import Fused
from mhc_exp.torch.streams import HyperConnection
from mhc_exp.torch.trainer import TorchTrainer

pytestmark = pytest.mark.triton

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"


@pytest.fixture(scope="module", autouse=True)
def runs_here() -> None:
    assert machine.installed("triton"), "triton is not installed; type: make triton"
    assert INTERPRETED or torch.cuda.is_available(), "there is no GPU; type: make triton"


def fused(_: Streams | None = None) -> Fused:
    return Fused(gpu.TritonKernels())


def error_of(case: str, streams: int, width: int, tokens: int, seed: int, spread: float = 1.0) -> float:
    return compared(case, streams, width, tokens, seed, spread, tier=fused, device=DEVICE)


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_equal_the_eager_tier(case: str):
    assert error_of(case, streams=4, width=96, tokens=50, seed=0) < TOLERANCE


@pytest.mark.parametrize("streams", range(2, 9))
def test_any_number_of_streams(streams: int):
    assert error_of("mhc", streams, width=33, tokens=17, seed=streams) < TOLERANCE
    assert error_of("mhc static", streams, width=33, tokens=17, seed=streams) < TOLERANCE


@settings(max_examples=15, deadline=None)
@given(
    case=st.sampled_from(sorted(CASES)),
    streams=st.sampled_from([2, 4, 5]),
    width=st.integers(1, 150),
    tokens=st.integers(1, 40),
    seed=st.integers(0, 1000),
)
def test_any_shape(case: str, streams: int, width: int, tokens: int, seed: int):
    found = error_of(case, streams, width, tokens, seed)
    if found > TOLERANCE:  # numbers that float32 cannot tell apart: then PyTorch's own operations err as much
        assert found < 4 * compared(case, streams, width, tokens, seed, tier=lambda _: Eager())


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # numpy's word for a sigmoid of 0
@pytest.mark.parametrize("case", ["mhc", "softmax start, rows last", "deepseek_v4"])
def test_far_apart_logits(case: str):
    """Logits hundreds apart: rows of the first matrix are below the smallest float, and nothing may become NaN."""
    found = error_of(case, 4, width=16, tokens=40, seed=3, spread=60.0)
    usual = compared(case, 4, width=16, tokens=40, seed=3, spread=60.0, tier=lambda _: Eager())
    assert found < max(TOLERANCE, 10 * usual)


def test_weight_gradients_summed_over_several_parts(monkeypatch: pytest.MonkeyPatch):
    from mhc_exp.torch.kernels.triton_kernels import predict

    monkeypatch.setattr(predict, "TOKENS_PER_PART", 64)
    assert predict._parts(150, 4 * 40) == (3, 64)
    assert error_of("mhc", streams=4, width=40, tokens=150, seed=1) < TOLERANCE


@pytest.fixture
def tuners() -> Iterator[dict[str, list]]:
    """Kernels by what they choose block sizes from; their own choices come back afterwards."""
    from mhc_exp.torch.kernels.triton_kernels import predict, streams

    found = {
        "MAPS": [streams._read, streams._write],
        "SUMS": [streams._read_backward, streams._write_backward],
        "PROJECTIONS": [predict._predict, predict._predict_backward, predict._weight_gradient],
    }
    before = {kernel: kernel.configs for kernels in found.values() for kernel in kernels}
    yield found
    for kernel, configs in before.items():
        kernel.configs = configs


def test_every_choice_of_block_sizes(tuners: dict[str, list]):
    import triton

    from mhc_exp.torch.kernels.triton_kernels import predict, streams

    choices = {"MAPS": streams.MAPS, "SUMS": streams.SUMS, "PROJECTIONS": predict.PROJECTIONS}
    for turn in range(max(map(len, choices.values()))):
        for name, kernels in tuners.items():
            tokens, width, warps = choices[name][turn % len(choices[name])]
            for kernel in kernels:
                kernel.configs = [triton.Config({"BN": tokens, "BC": width}, num_warps=warps)]
        assert error_of("mhc", streams=3, width=70, tokens=19, seed=turn) < TOLERANCE
        assert error_of("deepseek_v41", streams=3, width=70, tokens=19, seed=turn) < TOLERANCE


@pytest.mark.parametrize("case", ["mhc", "identity_hc", "deepseek_v41", "mhc static"])
def test_streams_in_bfloat16(case: str):
    """Coefficients are as exact as with float32 streams; the rest is rounded to bfloat16 (2^-9)."""
    variant, width, tokens = variant_of(case, 4), 72, 37

    def run(tier: Eager, dtype: torch.dtype, device: str) -> list[Tensor]:
        random = torch.Generator().manual_seed(7)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=random).bfloat16().to(device, dtype)

        connection = HyperConnection(variant, width).to(device, torch.float32 if dtype is torch.bfloat16 else dtype)
        with torch.no_grad():
            for name, parameter in connection.named_parameters():
                parameter.copy_(normal(*parameter.shape) * (0.0625 if name == "weight" else 1.0))
        x = normal(tokens, 4, width).requires_grad_()
        waiting = normal(4, tokens).to(connection.bias.dtype) if variant.read_from == "previous" else None
        outputs = step(tier, connection, x, waiting)
        loss = torch.stack([(output * normal(*output.shape)).double().sum() for output in outputs]).sum()
        gradients = torch.autograd.grad(loss, [x, *connection.parameters()])
        assert outputs[0].dtype == outputs[1].dtype == gradients[0].dtype == dtype
        return [value.detach().cpu().double() for value in (*outputs, *gradients)]

    expected, found = run(Eager(), torch.float64, "cpu"), run(fused(), torch.bfloat16, DEVICE)
    errors = [float((e - f).abs().max() / e.abs().max()) for e, f in zip(expected, found, strict=True)]
    coefficients = slice(2, len(errors) - 1 - len(list(HyperConnection(variant, width).parameters())))
    assert max(errors[coefficients]) < TOLERANCE
    assert max(errors) < 2**-5  # u, F(u) and their gradients are rounded one after the other
    assert max(errors) > 2**-12  # it was bfloat16 that was tested


def test_the_same_bits_every_time():
    variant = variant_of("mhc", 4)
    connection = HyperConnection(variant, 40).to(DEVICE)
    with torch.no_grad():
        connection.weight.copy_(0.1 * torch.randn(connection.weight.shape, generator=torch.Generator().manual_seed(0)))

    def gradient() -> Tensor:
        x = torch.randn(100, 4, 40, generator=torch.Generator().manual_seed(1)).to(DEVICE).requires_grad_()
        streams = step(fused(), connection, x, None)[0]
        found = torch.autograd.grad(streams.square().sum(), [x, connection.weight])
        return torch.cat([part.flatten() for part in found])

    assert torch.equal(gradient(), gradient())


@pytest.mark.filterwarnings("ignore:All-NaN slice encountered")
def test_a_nan_reaches_what_it_touches_and_nothing_else():
    variant = variant_of("mhc", 4)
    x = torch.ones(40, 4, 20)
    x[3, 1, 2] = float("nan")
    connection = HyperConnection(variant, 20).to(DEVICE)
    streams = step(fused(), connection, x.to(DEVICE), None)[0].detach()
    assert streams[3].isnan().all()
    assert not streams[:3].isnan().any()
    assert not streams[4:].isnan().any()


def test_other_precisions_and_strides_are_refused():
    kernels, weights = gpu.TritonKernels(), torch.ones(4, 2)
    with pytest.raises(TypeError, match=r"streams may be bfloat16\), not torch.float64"):
        kernels.read_forward(torch.ones(2, 4, 3, dtype=torch.float64), weights)
    with pytest.raises(TypeError, match=r"not strided torch.float32"):
        kernels.read_forward(torch.ones(2, 3, 4).transpose(1, 2), weights)
    with pytest.raises(TypeError, match=r"not torch.bfloat16"):
        kernels.read_forward(torch.ones(2, 4, 3), weights.bfloat16())


@pytest.mark.parametrize("variant", ["mhc", "hyperloop", "deepseek_v41"])
def test_a_whole_model_has_the_gradients_of_the_eager_tier(variant: str):
    backend = ["backend=cpu"] if DEVICE == "cpu" else ["backend=cuda", "backend.dtype=float32", "backend.tf32=false"]
    sizes = ["depth=2", "model.width=32", "model.heads=2", "dataset=pointer_chasing"]
    config = compose([f"variant={variant}", "backend.kernels=eager", *backend, *sizes])
    task = make_task(config)
    trainer, batch = TorchTrainer(config, task.vocab_size), task.batch(0, 1)
    expected = trainer.gradients(batch)
    install(trainer.model.topology, fused())
    found = trainer.gradients(batch)
    for name, gradient in expected.items():
        assert np.abs(gradient - found[name]).max() <= 2e-4 * max(np.abs(gradient).max(), 1e-6), name


def test_the_kernels_are_proven_before_they_are_used(monkeypatch: pytest.MonkeyPatch):
    variant, device = variant_of("mhc", 4), torch.device(DEVICE)
    assert gpu.Triton(variant, device).name == "native"

    right = gpu.TritonKernels.write_forward
    monkeypatch.setattr(gpu.TritonKernels, "write_forward", lambda *given: right(*given) * 1.001)
    with pytest.raises(Unavailable, match=r"the Triton kernels differ from PyTorch by \d\.\de-0\d here"):
        gpu.Triton(variant, device)

    def fail(*_: object) -> None:
        raise RuntimeError("Failed to find C compiler\nmore")

    monkeypatch.setattr(gpu.TritonKernels, "write_forward", fail)
    with pytest.raises(Unavailable, match=r"do not run here \(RuntimeError: Failed to find C compiler\)$"):
        gpu.Triton(variant, device)


@pytest.mark.parametrize(
    ("architecture", "streams", "width", "dtype", "case", "every"),
    [
        ("80", "4", "96", "float32", "mhc", ""),
        ("90", "4", "2560", "bfloat16", "deepseek_v41", "all"),
        ("100", "3", "64", "float32", "mhc", ""),
    ],
)
def test_kernels_compile_for_gpus(
    architecture: str, streams: str, width: str, dtype: str, case: str, every: str, tmp_path: Path
):
    """To machine code, with no register spilled at up to 4 streams. It needs no GPU, and says nothing of speed."""
    arguments = [architecture, streams, width, dtype, case, *filter(None, [every])]
    paths = os.pathsep.join([os.environ.get("PYTHONPATH", ""), *sys.path])
    environment = os.environ | {"PYTHONPATH": paths, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    program = Path(__file__).with_name("compile_kernels.py")
    ran = subprocess.run([sys.executable, program, *arguments], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    kernels = [json.loads(line) for line in ran.stdout.splitlines()]
    expected = {"_predict", "_predict_backward", "_weight_gradient", "_write", "_write_backward"}
    expected |= {"_sinkhorn", "_sinkhorn_backward"} | ({"_read", "_read_backward"} if case == "deepseek_v41" else set())
    assert {kernel["kernel"] for kernel in kernels} == expected
    assert all(kernel["shared"] <= 99 * 1024 for kernel in kernels)
    assert not any(kernel["spilled"] for kernel in kernels)
