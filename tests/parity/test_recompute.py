"""Recomputed blocks: the same gradients bit for bit, on both backends and tiers, and one look at every connection."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mhc_exp.config.build import as_mapping
from mhc_exp.config.build import build as build_config
from mhc_exp.config.checks import check
from mhc_exp.config.compose import compose
from mhc_exp.config.naming import config_hash
from mhc_exp.config.schema import Config
from mhc_exp.data import make_task
from mhc_exp.topology.diagnosis import Diagnosis
from mhc_exp.torch.model import MLP
from mhc_exp.torch.recompute import in_blocks
from mhc_exp.training.backends import make_trainer

WIRINGS = {
    "baseline": ["variant=baseline"],
    "rezero": ["variant=rezero"],
    "layer_scale": ["variant=layer_scale"],
    "laurel": ["variant=laurel"],
    "post_norm": ["variant=post_norm"],
    "mhc": ["variant=mhc"],
    "mhc static": ["variant=mhc", "variant.coefficients=static"],
    "mhc at block sites": ["variant=mhc", "variant.site=block", "training.recompute_length=2"],
    "hc": ["variant=hc"],
    "identity_hc": ["variant=identity_hc"],
    "deepseek_v4": ["variant=deepseek_v4"],
    "deepseek_v41": ["variant=deepseek_v41"],
}
BACKENDS = {
    "native": ["backend=cpu", "backend.kernels=native"],
    "eager": ["backend=cpu", "backend.kernels=eager"],
    "bfloat16": ["backend=cpu", "backend.dtype=bfloat16"],
    "mlx": ["backend=mlx"],
}


def _config(*overrides: str) -> Config:
    small = ["depth=3", "model.seq_len=16", "model.width=32", "training.batch_size=2", "training.recompute_length=4"]
    config = compose(
        ["tracking=local", "dataset=increment", "dataset.vocab_size=32", *small, "backend.threads=1", *overrides]
    )
    assert not check(config)
    return config


def _after_steps(config: Config, steps: int = 3) -> tuple[dict[str, np.ndarray], str]:
    """Weights and moments after some steps of training, and what the trainer says of itself."""
    trainer, task = make_trainer(config, 32), make_task(config)
    for step in range(1, steps + 1):
        trainer.step(step, task.batch(step - 1, 2), 1e-2)
        trainer.fetch()
    state = trainer.state()
    return state.model | state.optimizer, trainer.recompute


COMBINATIONS = [
    pytest.param([*own, *overrides], id=f"{backend} {wiring}")
    for backend, own in BACKENDS.items()
    for wiring, overrides in WIRINGS.items()
    if backend != "native" or wiring in list(WIRINGS)[5:]
]
"""Residual streams have no native tier."""


@pytest.mark.parametrize("overrides", COMBINATIONS)
def test_training_is_the_same_bit_for_bit(overrides: list[str]):
    every, none = _after_steps(_config(*overrides, "training.recompute=none", "training.recompute_length=null"))
    again, blocks = _after_steps(_config(*overrides, "training.recompute=block"))
    assert none == "none"
    assert blocks.startswith("blocks of ")
    assert every.keys() == again.keys()
    assert not [name for name, value in every.items() if not np.array_equal(value, again[name])]


@pytest.mark.parametrize("backend", ["native", "eager", "bfloat16"])
@pytest.mark.parametrize("wiring", list(WIRINGS)[5:])
def test_training_is_the_same_bit_for_bit_where_only_connections_are_computed_again(backend: str, wiring: str):
    own = [*BACKENDS[backend], *WIRINGS[wiring], "model.dropout=0.1"]
    every, _ = _after_steps(_config(*own, "training.recompute=none", "training.recompute_length=null"))
    again, said = _after_steps(_config(*own, "training.recompute=connections"))
    assert said.startswith("connections of blocks of ")
    assert not [name for name, value in every.items() if not np.array_equal(value, again[name])]


def test_where_only_connections_are_computed_again_every_sublayer_is_called_once(monkeypatch: pytest.MonkeyPatch):
    calls = []
    forward = MLP.forward
    monkeypatch.setattr(MLP, "forward", lambda self, x: (calls.append(self), forward(self, x))[1])
    for policy, times in (("connections", 1), ("block", 2)):
        calls.clear()
        _after_steps(_config("backend=cpu", "variant=mhc", f"training.recompute={policy}"), steps=1)
        assert len(calls) in range(times * 3 - (times == 2), times * 3 + 1)  # a block may stop before its last sublayer


@pytest.mark.parametrize(("words", "why"), [(["variant=baseline"], "family"), (["variant=mhc", "backend=mlx"], "MLX")])
def test_who_cannot_compute_connections_alone_is_refused(words: list[str], why: str):
    (problem,) = check(compose(["training.recompute=connections", *words]))
    assert why in problem.message
    assert "type training.recompute=auto" in problem.message


@pytest.mark.parametrize("wiring", ["baseline", "mhc"])
def test_dropout_drops_the_same_units_again(wiring: str):
    own = ["backend=cpu", "model.dropout=0.3", *WIRINGS[wiring]]
    every, _ = _after_steps(_config(*own, "training.recompute=none", "training.recompute_length=null"))
    again, _ = _after_steps(_config(*own, "training.recompute=block"))
    other, _ = _after_steps(_config(*own, "training.recompute=block", "model.dropout=0.0"))
    assert not [name for name, value in every.items() if not np.array_equal(value, again[name])]
    assert any(not np.array_equal(value, other[name]) for name, value in every.items())


def test_every_block_recomputes_its_own_steps():
    """A closure over the loop's variables would take the last block's factors for all."""
    factors = [torch.tensor(value, requires_grad=True) for value in (2.0, 3.0, 5.0)]
    x = torch.tensor(1.5, requires_grad=True)

    def run(steps, x):
        for factor in steps:
            x = torch.sin(factor * x)
        return (x,)

    def gradients(length: int | None) -> list[torch.Tensor]:
        return list(torch.autograd.grad(in_blocks(run, factors, length, x)[0], [x, *factors]))

    for length in (1, 2, 3):
        assert gradients(length) == gradients(None)
    assert len({float(gradient) for gradient in gradients(1)}) == 4


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_observer_sees_every_connection_once(backend: str):
    seen = []
    for recompute in (["training.recompute=block"], ["training.recompute=none", "training.recompute_length=null"]):
        config = _config(*BACKENDS[backend], "variant=mhc", *recompute)
        trainer = make_trainer(config, 32)
        found = trainer.diagnose(make_task(config).batch(0, 2))
        assert isinstance(found, Diagnosis)
        seen.append(found)
    assert len(seen[0].mix) == 6
    np.testing.assert_array_equal(seen[0].mix, seen[1].mix)


def test_what_recomputes_by_default_has_the_hash_of_runs_that_knew_nothing_of_it():
    auto, block = (compose(["variant=mhc", "backend=cpu", *own]) for own in ([], ["training.recompute=block"]))
    mapping = as_mapping(auto)
    del mapping["training"]["recompute"], mapping["training"]["recompute_length"]
    assert build_config(mapping) == auto
    assert config_hash(auto) == "4c764652e36c"
    assert config_hash(block) != config_hash(auto)


REFUSED = [
    (["training.recompute=block", "variant=xhc"], "training.recompute", "type training.recompute=auto"),
    (["training.recompute=block", "variant=hyperloop"], "training.recompute", "not in looped"),
    (["training.recompute=block", "backend=mlx", "model.dropout=0.1"], "training.recompute", "MLX"),
    (["training.recompute=none", "training.recompute_length=3"], "training.recompute_length", "recompute=block"),
    (["training.recompute_length=25"], "training.recompute_length", "1 to 24"),
]


@pytest.mark.parametrize(("overrides", "path", "advice"), REFUSED)
def test_what_cannot_be_recomputed_is_refused_with_what_to_type(overrides: list[str], path: str, advice: str):
    (refusal,) = check(compose(["variant=mhc", "backend=cpu", "tracking=local", *overrides]))
    assert refusal.path == path
    assert advice in refusal.message
