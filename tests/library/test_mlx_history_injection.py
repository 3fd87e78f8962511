"""`inject_mhc` in MLX does what it does in PyTorch, which tests/library/test_history_blocks.py examines."""

from __future__ import annotations

import copy
import pickle

import mlx.core as mx
import numpy as np
import pytest
import torch
from mlx import nn, optimizers
from mlx.utils import tree_flatten
from twins import WIDTH, MLXBranch, TorchBranch, flat, same_outputs_and_gradients, stirred, take_over

from mhc_exp import torch as theirs
from mhc_exp.mlx import CannotInject, eject_mhc, inject_mhc


class Pair(nn.Module):
    """Keywords and a tuple, like attention in a transformer."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def __call__(self, x: mx.array, *, scale: float = 1.0) -> tuple[mx.array, int]:
        return scale * self.linear(x), 7


class Pairs(nn.Module):
    def __init__(self, count: int = 5):
        super().__init__()
        self.pairs = [Pair() for _ in range(count)]

    def __call__(self, x: mx.array) -> mx.array:
        for pair in self.pairs:
            x, seven = pair(x, scale=0.5)
            assert seven == 7
        return x


class Backwards(Pairs):
    """The order of the calls is another one in evaluation."""

    def __call__(self, x: mx.array) -> mx.array:
        for pair in self.pairs if self.training else self.pairs[::-1]:
            x, _ = pair(x)
        return x


@pytest.fixture
def x() -> mx.array:
    mx.random.seed(0)
    return mx.random.normal((4, WIDTH))


def mixed(model: nn.Module) -> nn.Module:
    """With every weight of the mixing away from its initial value."""
    random = np.random.default_rng(1)
    for name, value in tree_flatten(model.parameters()):
        if "logits" in name:
            noise = random.standard_normal(value.shape).astype(np.float32)
            model.load_weights([(name, value + mx.array(noise))], strict=False)
    return model


def gradients(model: nn.Module, x: mx.array) -> dict[str, np.ndarray]:
    return flat(nn.value_and_grad(model, lambda x: mx.square(model(x)).sum())(x)[1])


@pytest.mark.parametrize(
    ("constraint", "last"),
    [("simplex", WIDTH), ("simplex", 5), ("identity", WIDTH), ("identity", 5), ("doubly_stochastic", WIDTH)],
)
def test_outputs_and_gradients_are_pytorchs(constraint, last):
    torch.manual_seed(0)
    outputs = [WIDTH] * 4 + [last]
    twin = torch.nn.Sequential(*(TorchBranch(outputs=size, norm=False) for size in outputs))
    model = nn.Sequential(*(MLXBranch(outputs=size, norm=False) for size in outputs))
    example = np.zeros((1, WIDTH), np.float32)
    theirs.inject_mhc(twin, TorchBranch, 3, constraint, example=torch.from_numpy(example))
    inject_mhc(model, MLXBranch, 3, constraint, example=mx.array(example))
    names = {f"layers.{name}" for name, _ in twin.named_parameters()}
    assert flat(model.parameters()).keys() == names
    stirred(twin)
    holder = torch.nn.Module()
    holder.layers = twin  # the names that MLX gives to what a Sequential holds
    holder.forward = lambda x: twin(x)
    take_over(model, holder)
    same_outputs_and_gradients(model, holder, np.random.default_rng(0).standard_normal((4, WIDTH)).astype(np.float32))


def test_targets_share_one_history_and_keep_their_arguments(x):
    model = Pairs()
    pairs = copy.deepcopy(model.pairs)
    mixed(inject_mhc(model, Pair, max_history=3, example=x))
    states = [x]
    for pair, injected in zip(pairs, model.pairs, strict=True):
        a, y = injected.history_connection.weights(), pair(states[0], scale=0.5)[0]
        states.insert(0, sum((a[k] * states[k] for k in range(len(a))), start=y))
    assert [len(pair.history_connection.weights()) for pair in model.pairs] == [1, 2, 3, 3, 3]
    assert mx.allclose(model(x), states[0], rtol=1e-5, atol=1e-5)


def test_nothing_is_kept_between_calls(x):
    model = mixed(inject_mhc(Pairs(), Pair, example=x))
    alone = model(x)
    model(mx.random.normal((7, WIDTH)))
    assert mx.array_equal(model(x), alone)
    assert model.history_memory.states is None


def test_every_weight_of_the_mixing_learns(x):
    found = gradients(mixed(inject_mhc(Pairs(), Pair, example=x)), x)
    own = [value for name, value in found.items() if "logits" in name]
    assert len(own) == 4
    assert all(np.abs(value).min() > 1e-7 for value in own)


def test_ejecting_gives_the_model_back(x):
    model = Pairs()
    kinds, names, before = type(model), [name for name, _ in tree_flatten(model.parameters())], model(x)
    mixed(inject_mhc(model, Pair, example=x))
    assert type(model) is not kinds
    assert type(model).__name__ == "Pairs"
    assert not mx.allclose(model(x), before)
    eject_mhc(model)
    assert type(model) is kinds
    assert type(model.pairs[0]) is Pair
    assert [name for name, _ in tree_flatten(model.parameters())] == names
    assert mx.array_equal(model(x), before)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_is_a_model_of_its_own(duplicate, x):
    model = mixed(inject_mhc(Pairs(), Pair, example=x))
    found, twin = model(x), duplicate(model)
    eject_mhc(model)
    assert mx.array_equal(twin(x), found)


def test_saved_weights_load_and_training_lowers_the_loss(x, tmp_path):
    model = inject_mhc(Pairs(), Pair, example=x)
    optimizer = optimizers.Adam(1e-2)
    step = nn.value_and_grad(model, lambda x: mx.square(model(x) - 1).mean())
    losses = []
    for _ in range(40):
        loss, found = step(x)
        optimizer.update(model, found)
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    model.save_weights(str(tmp_path / "weights.safetensors"))
    twin = inject_mhc(Pairs(), Pair, example=x)
    twin.load_weights(str(tmp_path / "weights.safetensors"))
    assert mx.array_equal(twin(x), model(x))


def test_compiling_gives_the_same_numbers(x):
    model = mixed(inject_mhc(Pairs(), Pair, example=x))
    assert mx.allclose(mx.compile(model)(x), model(x), rtol=1e-5, atol=1e-6)


def test_convolutions_of_a_network_with_other_sizes():
    image = mx.random.normal((2, 9, 9, 3))
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, padding=1), nn.Conv2d(16, 16, 3, padding=1)
    )
    inject_mhc(model, nn.Conv2d, example=image)
    names = {name for name, _ in tree_flatten(model.parameters()) if "projections" in name}
    assert names == {
        f"layers.{layer}.history_connection.projections.{age}.weight"
        for layer, age in [(0, 0), (2, 0), (2, 1), (3, 1), (3, 2)]
    }
    found = gradients(model, image)
    assert all(np.abs(found[name]).max() > 0 for name in names)


def nested(x: mx.array) -> None:
    inject_mhc(Pairs(), (Pair, nn.Linear), example=x)


def unlike(x: mx.array, model: nn.Module | None = None) -> None:
    model = model or nn.Sequential(MLXBranch(), MLXBranch(outputs=5))
    inject_mhc(model, MLXBranch, constraint="doubly_stochastic", example=x)


class Unused(nn.Module):
    """Has a layer that it never calls."""

    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(WIDTH, WIDTH)

    def __call__(self, x: mx.array) -> mx.array:
        return x


def twice(x: mx.array) -> None:
    shared = nn.Linear(WIDTH, WIDTH)
    inject_mhc(nn.Sequential(shared, shared), nn.Linear, example=x)


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        (lambda x: inject_mhc(Pairs(), nn.Conv2d, example=x), "Pairs has no modules of type Conv2d"),
        (nested, "contain other targets: pairs.0, pairs.1"),
        (twice, "run more than once per call: layers"),
        (lambda x: inject_mhc(Unused(), nn.Linear, example=x), "no module of type Linear ran in `example`"),
        (lambda x: inject_mhc(nn.Sequential(nn.Sequential(nn.ReLU())), nn.Sequential, example=x), "mere containers"),
        (lambda x: inject_mhc(Pair(), Pair, example=x), "are the model itself: Pair"),
        (lambda x: inject_mhc(inject_mhc(Pairs(), Pair, example=x), Pair, example=x), "eject_mhc"),
        (lambda x: eject_mhc(Pairs()), "has no mixing to eject"),
        (unlike, "layers.1: constraint='doubly_stochastic'"),
    ],
)
def test_what_cannot_be_is_answered(refused, said, x):
    with pytest.raises(CannotInject, match=said):
        refused(x)


def test_a_refused_model_is_as_it_was(x):
    model = nn.Sequential(MLXBranch(), MLXBranch(outputs=5))
    with pytest.raises(CannotInject):
        unlike(x, model)
    assert {type(layer) for layer in model.layers} == {MLXBranch}
    assert not any("history" in name for name, _ in tree_flatten(model.parameters()))


def test_a_target_that_runs_on_its_own_is_refused(x):
    model = inject_mhc(Pairs(), Pair, example=x)
    with pytest.raises(RuntimeError, match="outside a call of the model"):
        model.pairs[0](x)


def test_another_order_than_the_examples_is_refused(x):
    model = inject_mhc(Backwards(), Pair, example=x)  # the example runs in evaluation mode
    model.train()
    with pytest.raises(RuntimeError, match="target 4 of inject_mhc ran as number 0"):
        model(x)


def test_recomputation_around_a_target_is_refused(x):
    """It would mix another history in the backward pass."""
    model = mixed(inject_mhc(Pairs(), Pair, example=x))
    one = model.pairs[2]

    class Recomputed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = one

        def __call__(self, x: mx.array, *, scale: float) -> tuple[mx.array, int]:
            return nn.utils.checkpoint(self.inner, lambda x: self.inner(x, scale=scale)[0])(x), 7

    model.pairs[2] = Recomputed()
    with pytest.raises(RuntimeError, match="recomputed by gradient checkpointing"):
        gradients(model, x)
