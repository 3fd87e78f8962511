"""The gate: what every wiring in conf/variant has to pass on every backend. `python tests/gate/table.py` prints it.

Checks that need more than one wiring at a time, or that existed before, are tests of tests/parity and tests/unit with
the same marker `gate`.
"""

from __future__ import annotations

import gc
import importlib

import numpy as np
import pytest
from gate_cases import cases, scores

from mhc_exp.body.flops import forward_flops_per_token
from mhc_exp.body.parameters import body_table
from mhc_exp.config.variants import Sparse, Streams
from mhc_exp.topology import families, reference
from mhc_exp.topology.charts import CHARTS
from mhc_exp.topology.gains import composite_gains
from mhc_exp.topology.reference.sparse import clamp

every_wiring = pytest.mark.parametrize("wiring", cases.SHIPPED)
both_backends = pytest.mark.parametrize("backend", cases.TRAINERS)


def perturbed(wiring, backend, *options):
    """A trainer off every symmetry."""
    config = cases.tiny([*cases.WIRINGS[wiring], *options])
    return cases.with_weights(cases.TRAINERS[backend](config), cases.perturbed(config))


@pytest.mark.gate("shape")
@both_backends
@every_wiring
def test_scores_have_their_shape_for_any_batch_and_length(wiring, backend):
    trainer = perturbed(wiring, backend)
    for batch, time in ((1, 1), (3, 5)):
        found = scores(trainer, np.zeros((batch, time), np.int32))
        assert found.shape == (batch, time, cases.VOCABULARY)
        assert np.isfinite(found).all()


@pytest.mark.gate("causality")
@both_backends
@every_wiring
def test_a_token_changes_nothing_before_it_and_something_after(wiring, backend):
    trainer, tokens = perturbed(wiring, backend), cases.batch().inputs
    changed = tokens.copy()
    changed[:, 3] = (changed[:, 3] + 1) % cases.VOCABULARY
    before, after = scores(trainer, tokens), scores(trainer, changed)
    np.testing.assert_allclose(after[:, :3], before[:, :3], atol=1e-6)
    assert (np.abs(after[:, 3:] - before[:, 3:]).max(axis=-1) > 1e-6).any(axis=0).all()


@pytest.mark.gate("sequences")
@both_backends
@every_wiring
def test_sequences_of_a_batch_do_not_see_each_other(wiring, backend):
    trainer, tokens = perturbed(wiring, backend), cases.batch().inputs
    together = scores(trainer, tokens)
    np.testing.assert_allclose(scores(trainer, tokens[2:3]), together[2:3], atol=1e-5)


def trained(trainer, steps):
    for step in steps:
        trainer.step(step, cases.batch(step), 1e-2)
    return [result.loss for result in trainer.fetch()]


@pytest.mark.gate("determinism")
@both_backends
@every_wiring
def test_the_same_run_twice_has_the_same_bits(wiring, backend):
    first, second = (cases.TRAINERS[backend](cases.tiny(cases.WIRINGS[wiring])) for _ in range(2))
    assert trained(first, range(1, 4)) == trained(second, range(1, 4))
    one, other = first.state().model, second.state().model
    assert all((one[name] == other[name]).all() for name in one)


@pytest.mark.gate("round trip")
@both_backends
@every_wiring
def test_a_loaded_state_continues_bit_for_bit(wiring, backend):
    config = cases.tiny(cases.WIRINGS[wiring])
    straight, stopped, resumed = (cases.TRAINERS[backend](config) for _ in range(3))
    expected = trained(straight, range(1, 5))
    trained(stopped, range(1, 3))
    resumed.load(stopped.state())
    assert trained(resumed, range(3, 5)) == expected[2:]


@pytest.mark.gate("other backend")
@every_wiring
def test_a_state_of_one_backend_continues_on_the_other(wiring):
    config = cases.tiny(cases.WIRINGS[wiring])
    torch, mlx = cases.torch_trainer(config), cases.mlx_trainer(config)
    trained(torch, range(1, 3))
    mlx.load(torch.state())
    assert trained(mlx, range(3, 5)) == pytest.approx(trained(torch, range(3, 5)), abs=1e-5)


@pytest.mark.gate("budget")
@every_wiring
def test_the_body_costs_the_same_under_every_wiring(wiring):
    """The same parameters, and the same FLOPs but for the blocks that it calls again."""

    def body(*overrides):
        config = cases.tiny([*overrides])
        own = families.flops_per_token(config.variant, config.model.width, config.depth)
        shapes = {name: entry.shape for name, entry in body_table(config, cases.VOCABULARY).items()}
        return shapes, forward_flops_per_token(config, cases.VOCABULARY) - own

    names = cases.WIRINGS[wiring]
    variant = cases.tiny(names).variant
    for depth in (2, 5):
        shapes, flops = body(*names, f"depth={depth}")
        assert shapes == body("variant=baseline", f"depth={depth}")[0]
        calls = sum(families.passes(variant, depth))
        assert flops == pytest.approx(body("variant=baseline", f"depth={calls}")[1])


@pytest.mark.gate("passes")
@both_backends
@every_wiring
def test_every_block_is_called_as_often_as_is_stated(wiring, backend, monkeypatch):
    config = cases.tiny([*cases.WIRINGS[wiring], "depth=5"])
    trainer, calls = cases.TRAINERS[backend](config), []
    model = importlib.import_module(f"mhc_exp.{backend}.model")

    def counted(method):
        def call(self, *inputs):
            calls.append(id(self))
            return method(self, *inputs)

        return call

    monkeypatch.setattr(model.Attention, "attend", counted(model.Attention.attend))
    monkeypatch.setattr(model.MLP, "inner", counted(model.MLP.inner))
    scores(trainer, cases.batch().inputs)
    stated = families.passes(config.variant, config.depth)
    assert len(stated) == 5
    for name in ("attention", "mlp"):
        assert [calls.count(id(getattr(block, name))) for block in trainer.model.blocks] == stated


TEMPORARIES = {
    "gated_residual": 7,  # normed streams, and gates of their size
    "xhc": 5,  # active streams before and after
    "value_residual": 2,  # query, key and value
    "vwn": 2,  # segments before the attention's write
    "muddformer": 1,
    "deep_cross_attention": 1,
}
"""Further tensors [B, T, C] that a wiring's loop still names while the MLP runs."""


@pytest.mark.gate("memory")
@every_wiring
def test_as_much_is_kept_between_sublayers_as_is_stated(wiring):
    """Tensors [B, T, C] alive in the MLP where most are. Beside the state there may be the embedding, the MLP's input,
    that after its norm, and the attention's output, which Python still holds.
    """
    import torch

    config = cases.tiny([*cases.WIRINGS[wiring], "depth=4", "model.width=64"])
    trainer, tokens = cases.torch_trainer(config), cases.batch().inputs
    size, alive = 64 * tokens.size, []

    def storages():
        gc.collect()
        tensors = [tensor for tensor in gc.get_objects() if type(tensor) is torch.Tensor and tensor.numel() >= size]
        return {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() / 4 / size for tensor in tensors}

    before = storages()
    for block in trainer.model.blocks:
        block.mlp.up.register_forward_pre_hook(lambda *_: alive.append(storages()))
    with torch.no_grad():
        trainer.model(torch.from_numpy(tokens.astype(np.int64)))
    found = max(sum(one[pointer] for pointer in one.keys() - before.keys()) for one in alive)
    stated = families.kept(config.variant, config.depth)
    assert stated - 0.01 <= found <= stated + TEMPORARIES.get(wiring, 0) + 4.01


def doubly_stochastic(wiring):
    """The variant, if it claims doubly stochastic mixing; skips the test otherwise."""
    variant = cases.tiny(cases.WIRINGS[wiring]).variant
    if not isinstance(variant, Streams | Sparse) or not CHARTS[variant.mix.chart].doubly_stochastic:
        pytest.skip("not claimed")
    return variant


def exact_axes(variant):
    """Axes of H_res as applied over which its sums are exact: both, or the one that Sinkhorn normalises last; none if
    rows are clamped after that.
    """
    if isinstance(variant, Sparse) and variant.clamp:
        return ()
    if variant.mix.chart != "sinkhorn":
        return (-1, -2)
    rows_last, transposed = variant.mix.order == "rows_last", variant.mix.apply == "transposed"
    return (-1,) if rows_last != transposed else (-2,)


@pytest.mark.gate("constraint")
@both_backends
@every_wiring
def test_mixing_is_doubly_stochastic_where_claimed(wiring, backend):
    variant = doubly_stochastic(wiring)
    mix = perturbed(wiring, backend).diagnose(cases.batch()).mix
    assert mix.min() >= 0
    for axis in (-1, -2):
        tolerance = 1e-5 if axis in exact_axes(variant) else 1e-2
        assert np.abs(mix.sum(axis=axis) - 1).max() <= tolerance


@pytest.mark.gate("gain")
@every_wiring
def test_two_hundred_doubly_stochastic_mixings_amplify_nothing(wiring):
    variant = doubly_stochastic(wiring)
    mixed = variant.active if isinstance(variant, Sparse) else variant.streams
    count = CHARTS[variant.mix.chart].logits(mixed, variant.mix.expansion)
    logits = np.random.default_rng(0).normal(scale=2.0, size=(200, 5, count))
    mix = np.array(reference.chart(logits, mixed, variant.mix))
    if variant.mix.apply == "transposed":
        mix = np.swapaxes(mix, -1, -2)
    clamped = isinstance(variant, Sparse) and variant.clamp
    forward, backward, _ = composite_gains(clamp(mix) if clamped else mix)
    for axis in (-1,) if clamped else exact_axes(variant):
        assert (forward if axis == -1 else backward).max() <= 1 + 1e-9
