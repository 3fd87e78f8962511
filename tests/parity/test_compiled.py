"""The compiled tier: its mathematics is that of the eager tier, and so are the graphs torch.compile makes of it."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiers import CASES, TOLERANCE, compared, variant_of

from mhc_exp.config.checks import check
from mhc_exp.config.compose import compose
from mhc_exp.data import make_task
from mhc_exp.torch.kernels import compiled
from mhc_exp.torch.kernels.build import Unavailable
from mhc_exp.torch.kernels.compiled import Compiled, compiles
from mhc_exp.torch.kernels.eager import Eager
from mhc_exp.torch.trainer import TorchTrainer
from mhc_exp.training.backends import BackendMissing, make_trainer

CPU = torch.device("cpu")
KNOWN = [case for case in CASES if compiles(variant_of(case, 4))]


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch):
    """The functions that would be compiled, as they stand."""
    monkeypatch.setattr(
        compiled, "_graphs", lambda variant: (functools.partial(compiled._enter, variant), compiled._write)
    )


def test_it_knows_what_the_kernels_compute_whole():
    assert {"mhc", "columns last", "identity_hc", "deepseek_v4", "softmax start, rows last"} <= set(KNOWN)
    assert not {"mhc static", "hc", "oHC", "softmax start without eps"} & set(KNOWN)


@pytest.mark.parametrize("case", KNOWN)
def test_its_mathematics_is_that_of_the_eager_tier(case: str, uncompiled: None):
    assert compared(case, 4, width=96, tokens=50, seed=0, tier=lambda v: Compiled(v, 96, CPU)) < TOLERANCE


@given(
    case=st.sampled_from(KNOWN), streams=st.integers(2, 8), width=st.integers(1, 60), tokens=st.integers(1, 40),
    seed=st.integers(0, 1000),
)  # fmt: skip
@settings(max_examples=20, deadline=None)
def test_any_shape(case: str, streams: int, width: int, tokens: int, seed: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "_graphs", lambda v: (functools.partial(compiled._enter, v), compiled._write))
        found = compared(case, streams, width, tokens, seed, tier=lambda v: Compiled(v, width, CPU))
    if found > TOLERANCE:  # numbers that float32 cannot tell apart: then PyTorch's own operations err as much
        assert found < 4 * compared(case, streams, width, tokens, seed, tier=lambda _: Eager())


@pytest.mark.parametrize("case", ["mhc", "deepseek_v4"])
def test_far_apart_logits(case: str, uncompiled: None):
    tiers = (lambda v: Compiled(v, 16, CPU), lambda _: Eager())
    found, usual = (compared(case, 4, width=16, tokens=40, seed=3, spread=60.0, tier=tier) for tier in tiers)
    assert found < max(TOLERANCE, 10 * usual)


def test_a_wiring_it_does_not_know_is_refused():
    config = compose(["variant=hc", "backend=cpu", "backend.kernels=compiled", "depth=1"])
    with pytest.raises(BackendMissing, match=r"compiled tier is for dynamic .*; type backend.kernels=auto"):
        make_trainer(config, 10)


def test_a_compiler_that_fails_is_named(monkeypatch: pytest.MonkeyPatch):
    def broken(*arguments: object) -> None:
        raise RuntimeError("no g++ here\nand more")

    monkeypatch.setattr(compiled, "_graphs", lambda variant: (broken, broken))
    with pytest.raises(Unavailable, match=r"torch.compile does not work here \(RuntimeError: no g\+\+ here\)$"):
        Compiled(variant_of("mhc", 4), 16, CPU)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["variant=mhc", "backend=mlx"], "compiled is for backend=cpu or cuda, not mlx; type backend.kernels=auto"),
        (["variant=baseline", "backend=cpu"], "baseline is one of residual; type backend.kernels=auto"),
    ],
)
def test_compiled_where_it_cannot_be(overrides: list[str], message: str):
    assert message in "\n".join(str(problem) for problem in check(compose([*overrides, "backend.kernels=compiled"])))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler about itself
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("variant", ["identity_hc", "mhc"])
def test_a_whole_model_has_the_gradients_of_the_eager_tier_from_one_graph(variant: str):
    """Any layer and any number of tokens from the graphs that were made before the first step."""
    overrides = ["depth=2", "backend=cpu", "dataset=pointer_chasing", f"variant={variant}"]
    eager, fast = (compose([*overrides, f"backend.kernels={tier}"]) for tier in ("eager", "compiled"))
    task = make_task(eager)
    expected_of, found_of = (TorchTrainer(config, task.vocab_size) for config in (eager, fast))
    assert found_of.kernels.startswith("compiled by torch.compile in ")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for size in (4, 3):
            expected, found = (trainer.gradients(task.batch(0, size)) for trainer in (expected_of, found_of))
            for name, gradient in expected.items():
                assert np.abs(gradient - found[name]).max() <= 2e-5 * max(np.abs(gradient).max(), 1e-6), name
