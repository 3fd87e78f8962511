"""Mixing of the last states in MLX is that in PyTorch, which tests/library/test_history_blocks.py examines."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
import torch
from mlx import nn
from twins import WIDTH, MLXBranch, TorchBranch, flat, same_outputs_and_gradients, stirred, take_over

from mhc_exp import torch as theirs
from mhc_exp.mlx import HistoryConnection, MHCSequential
from mhc_exp.mlx.library.projections import projection

OTHER = 5
"""The width of the last output, where shapes differ."""


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((4, WIDTH)).astype(np.float32)


def layers(count: int = 5, last: int = WIDTH) -> list[nn.Module]:
    return [*(MLXBranch(norm=False) for _ in range(count - 1)), MLXBranch(outputs=last, norm=False)]


def twin_layers(count: int = 5, last: int = WIDTH) -> list[torch.nn.Module]:
    return [*(TorchBranch(norm=False) for _ in range(count - 1)), TorchBranch(outputs=last, norm=False)]


def gradients(model: nn.Module, x: mx.array) -> dict[str, np.ndarray]:
    return flat(nn.value_and_grad(model, lambda x: mx.square(model(x)).sum())(x)[1])


KEYS = (
    {},
    {"constraint": "identity", "floor": 0.2},
    {"gate": True, "temperature": 0.5, "newest": 0.6},
    {"mode": "hc", "constraint": "identity", "max_history": 3},
    {"mode": "residual"},
)


@pytest.mark.parametrize(
    ("keys", "last"),
    [({"constraint": "doubly_stochastic"}, WIDTH), *((keys, last) for keys in KEYS for last in (WIDTH, OTHER))],
    ids=str,
)
def test_a_sequence_is_pytorchs(keys, last, x):
    torch.manual_seed(0)
    shapes = [(WIDTH,)] * 5 + [(last,)]
    twin = theirs.MHCSequential(twin_layers(last=last), shapes=shapes, **keys)
    model = MHCSequential(layers(last=last), shapes=shapes, **keys)
    start = flat(model.parameters())
    for name, value in twin.named_parameters():
        if "logits" in name or "gate" in name:
            np.testing.assert_array_equal(start[name], value.detach().numpy())
    take_over(model, stirred(twin))
    same_outputs_and_gradients(model, twin, x)
    for one, two in zip(model.connections, twin.connections, strict=True):
        np.testing.assert_allclose(np.array(one.weights()), two.weights().detach().numpy(), rtol=1e-5)


def test_gradients_pass_through_every_skip(x):
    """With dead branches the output is the input, and so is its gradient."""
    model = MHCSequential(layers(8))
    model.apply_to_modules(
        lambda name, part: part.update({"weight": part.weight * 0, "bias": part.bias * 0}) if "weight" in part else None
    )
    np.testing.assert_allclose(np.array(mx.grad(lambda x: model(x).sum())(mx.array(x))), np.ones_like(x), rtol=1e-6)


def test_nothing_is_kept_between_calls(x):
    model = MHCSequential(layers(), constraint="doubly_stochastic")
    alone = model(mx.array(x))
    model(mx.array(x[:2]) + 1)
    assert mx.array_equal(model(mx.array(x)), alone)
    own = [value for part in model.modules() for key, value in part.items() if isinstance(value, mx.array)]
    assert len(own) == len(flat(model.parameters()))


def test_recomputation_gives_the_same_gradients_bit_for_bit(x):
    modules = layers()
    found = [gradients(MHCSequential(modules, checkpoint=on), mx.array(x)) for on in (False, True)]
    assert len(found[0]) == 14
    assert found[0].keys() == found[1].keys()
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("how", ["read off", "declared", "traced"])
def test_projections_exist_before_the_optimizer(how):
    known = {"read off": {}, "declared": {"shapes": [(64,)] * 5 + [(32,)]}, "traced": {"example": mx.zeros((2, 64))}}
    modules = [nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32)]
    model = MHCSequential(modules, **known[how])
    before = flat(model.parameters()).keys()
    assert {name for name in before if "projections" in name} == {
        f"connections.4.projections.{age}.weight" for age in range(4)
    }
    assert model(mx.zeros((8, 64))).shape == (8, 32)
    assert gradients(model, mx.zeros((8, 64))).keys() == before
    assert model.training


def test_images_have_their_channels_last():
    modules = [nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 8, 3, 2, 1)]
    image = mx.random.normal((2, 9, 9, 3))
    model = MHCSequential(modules, example=image)
    assert model(image).shape == (2, 5, 5, 8)
    kinds = [[type(one).__name__ for one in connection.projections] for connection in model.connections]
    assert kinds == [["Linear"], ["Identity", "Linear"], ["Conv2d", "Conv2d", "Conv2d"]]


def test_noise_is_there_in_training_alone(x):
    modules, x = layers(), mx.array(x)
    noisy = MHCSequential(modules, stochastic=True)
    assert not mx.array_equal(noisy(x), noisy(x))
    assert mx.array_equal(noisy.eval()(x), MHCSequential(modules)(x))


def test_pruned_states_are_gone_and_stay_gone(x, tmp_path):
    model, x = MHCSequential(layers()), mx.array(x)
    for one in model.connections[1:]:
        one.mixing.logits[1] = -20.0
    before = model(x)
    assert model.prune(1e-6) == 4
    assert model.prune(1e-6) == 0
    assert mx.allclose(model(x), before, rtol=1e-5, atol=1e-5)
    assert [one.kept for one in model.connections] == [(0,), (0,), (0, 2), (0, 2, 3), (0, 2, 3)]
    assert all(one.weights()[1] == 0 for one in model.connections[1:])
    found = gradients(model, x)
    assert found["connections.3.mixing.logits"][1] == 0
    assert all(np.isfinite(value).all() for value in found.values())
    model.save_weights(str(tmp_path / "weights.safetensors"))
    again = MHCSequential(layers())
    again.load_weights(str(tmp_path / "weights.safetensors"))
    assert [one.kept for one in again.connections] == [one.kept for one in model.connections]
    assert mx.array_equal(again(x), model(x))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: MHCSequential(layers(), constraint="doubly_stochastic").prune(0.1), "no state to leave out"),
        (lambda: MHCSequential(layers(last=OTHER))(mx.zeros((2, WIDTH))), "pass `shapes` or `example`"),
        (
            lambda: MHCSequential(layers(2, OTHER), constraint="doubly_stochastic", example=mx.zeros((1, WIDTH))),
            "needs one shape",
        ),
        (lambda: MHCSequential(layers(), shapes=[(3,)]), "6 in all; got 1"),
        (lambda: MHCSequential(layers(), mode="streams"), "HyperSequential"),
        (lambda: MHCSequential(layers(), checkpoint=True, stochastic=True), "other noise the second time"),
        (lambda: MHCSequential([nn.Dropout(0.1)], checkpoint=True), "cannot recompute the Dropout"),
        (lambda: HistoryConnection(nn.Identity(), layer_index=2)([mx.zeros(1)]), "layer_index is the number"),
        (lambda: projection((8, 8, 3), (5, 4, 3)), "no stride takes"),
        (lambda: projection((7, 3), (8, 3)), "only the last axis may change"),
    ],
)
def test_what_cannot_be_is_answered(make, said):
    with pytest.raises(ValueError, match=said):
        make()
