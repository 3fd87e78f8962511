"""Streams in MLX models that are there already: MLX's own layers, residual blocks in a Sequential, others."""

from __future__ import annotations

import copy
import pickle

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn, optimizers
from twins import flat

from mhc_exp.mlx import (
    Adapter,
    Branch,
    CannotInject,
    HyperSequential,
    Residual,
    connection_filter,
    connection_parameters,
    connections,
    eject,
    freeze_body,
    inject,
    is_injected,
    preserves,
)
from mhc_exp.mlx.library import splitting
from mhc_exp.topology.layout import mixing_share

WIDTH = 8


def branch() -> nn.Module:
    return nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Tanh())


def sequential() -> nn.Module:
    return nn.Sequential(nn.Linear(4, WIDTH), *(Residual(branch()) for _ in range(3)), nn.Linear(WIDTH, 3))


def images() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 1), *(Residual(nn.Conv2d(6, 6, 3, padding=1)) for _ in range(2)))


class Encoder(nn.Module):
    def __init__(self, **keys):
        super().__init__()
        self.inner = nn.TransformerEncoder(2, WIDTH, 2, 12, activation=nn.ReLU(), **keys)

    def __call__(self, x: mx.array) -> mx.array:
        return self.inner(x, nn.MultiHeadAttention.create_additive_causal_mask(x.shape[1]))


MODELS = {
    "encoder": (Encoder, (2, 5, WIDTH), 4),
    "sequential": (sequential, (7, 4), 3),
    "images": (images, (2, 5, 5, 3), 2),
}
"""Name -> (how to build it, shape of an input, number of connections)."""


@pytest.fixture(params=MODELS)
def case(request):
    mx.random.seed(0)
    build, shape, count = MODELS[request.param]
    return build(), mx.random.normal(shape), count


def stirred(model: nn.Module) -> nn.Module:
    random = np.random.default_rng(1)
    values = [(n, v + mx.array(0.5 * random.standard_normal(v.shape))) for n, v in connection_parameters(model).items()]
    return model.load_weights([(name, value.astype(mx.float32)) for name, value in values], strict=False)


def close(one: mx.array, two: mx.array, tolerance: float = 1e-5) -> bool:
    return bool(mx.allclose(one, two, rtol=tolerance, atol=tolerance))


def gradients(model: nn.Module, x: mx.array) -> dict[str, np.ndarray]:
    return flat(nn.value_and_grad(model, lambda x: mx.sin(2 * model(x)).mean())(x)[1])


@pytest.mark.parametrize("variant", ["mhc", "hc", "identity_hc", "mhc_lite", "ohc", "c_mhc"])
def test_the_function_is_the_same_at_step_0_and_not_afterwards(case, variant):
    model, x, count = case
    before = model(x)
    assert inject(model, variant) is model
    assert preserves(model)
    assert len(connections(model)) == count
    assert close(model(x), before)
    assert not close(stirred(model)(x), before, 1e-3)


def test_gradients_of_the_body_are_the_same_at_step_0(case):
    model, x, _ = case
    expected = gradients(model, x)
    found = gradients(inject(model), x)
    assert found.keys() - expected.keys() == connection_parameters(model).keys()
    size = max(np.abs(value).max() for value in expected.values())
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5 * size, err_msg=name)


def test_ejecting_gives_the_model_back(case):
    model, x, _ = case
    names, before = list(flat(model.parameters())), model(x)
    kinds = [(name, type(part), set(vars(part))) for name, part in model.named_modules()]
    stirred(inject(model))
    assert set(names) < set(flat(model.parameters()))
    assert [type(part).__name__ for name, part in model.named_modules() if (name, type(part), set(vars(part))) in kinds]
    assert is_injected(model)
    assert eject(model) is model
    assert not is_injected(model)
    assert list(flat(model.parameters())) == names
    assert [(name, type(part), set(vars(part))) for name, part in model.named_modules()] == kinds
    assert mx.array_equal(model(x), before)


class SelfAttention(nn.Module):
    def __init__(self, layer: nn.Module):
        super().__init__()
        self.norm, self.attention = layer.ln1, layer.attention

    def __call__(self, x: mx.array) -> mx.array:
        x = self.norm(x)
        return self.attention(x, x, x, nn.MultiHeadAttention.create_additive_causal_mask(x.shape[1]))


def test_no_inner_residual_remains():
    """The split encoder is the stack of its sublayers, each in a connection of its own."""
    model, x = Encoder(), mx.random.normal((2, 5, WIDTH))
    inject(model, "mhc")
    parts = []
    for layer in model.inner.layers:
        parts += [SelfAttention(layer), nn.Sequential(layer.ln2, layer.linear1, nn.ReLU(), layer.linear2)]
    stack = HyperSequential(parts, WIDTH, reduce="mean", init="preserving")
    stirred(model)
    for ours, theirs in zip(connections(stack), connections(model), strict=True):
        ours.update(theirs.parameters())
    assert close(model(x), model.inner.ln(stack(x)))


def test_what_a_block_adds_to_itself_reaches_nothing(case, monkeypatch):
    """A body that is handed NaN where the zeros are computes the same."""
    model, x, _ = case
    before = stirred(inject(model))(x)
    zeros = mx.zeros
    monkeypatch.setattr(splitting.mx, "zeros", lambda *args, **keys: zeros(*args, **keys) + float("nan"))
    assert mx.array_equal(model(x), before)


@pytest.mark.parametrize("name", ["encoder", "sequential"])
def test_training_lowers_the_loss_and_moves_every_connection(name):
    mx.random.seed(0)
    build, shape, _ = MODELS[name]
    model, x = build(), mx.random.normal(shape)
    target = mx.random.normal(model(x).shape)
    start = flat(connection_parameters(inject(model)))
    rates = [optimizers.AdamW(1e-2, weight_decay=0.0), optimizers.AdamW(3e-3, weight_decay=0.1)]
    optimizer = optimizers.MultiOptimizer(rates, [connection_filter(model)])
    step, losses = nn.value_and_grad(model, lambda: mx.square(model(x) - target).mean()), []
    for _ in range(20):
        loss, found = step()
        optimizer.update(model, found)
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    moved = [not np.array_equal(start[name], value) for name, value in flat(connection_parameters(model)).items()]
    assert all(moved)


def test_fine_tuning_moves_the_connections_alone():
    model = inject(Encoder(), train="connections")
    assert flat(model.trainable_parameters()).keys() == connection_parameters(model).keys()
    model.unfreeze()
    assert flat(model.trainable_parameters()).keys() == flat(model.parameters()).keys()
    assert flat(freeze_body(model).trainable_parameters()).keys() == connection_parameters(model).keys()


def test_copies_pickles_and_files_of_weights(case, tmp_path):
    model, x, _ = case
    plain = copy.deepcopy(model)
    found, twin = stirred(inject(model))(x), copy.deepcopy(model)
    for one in connections(model):
        one.bias = one.bias * 0
    assert mx.array_equal(twin(x), found)
    twin.save_weights(str(tmp_path / "weights.safetensors"))
    inject(plain).load_weights(str(tmp_path / "weights.safetensors"))
    assert mx.array_equal(plain(x), found)
    eject(twin)
    assert is_injected(model)


def test_a_block_can_be_pickled():
    block = inject(sequential()).layers[1]
    twin = pickle.loads(pickle.dumps(block))
    assert mx.array_equal(twin(mx.ones((2, WIDTH))), block(mx.ones((2, WIDTH))))
    assert isinstance(twin, splitting.MultiStream)


def test_mlx_recomputes_blocks_with_the_same_gradients_bit_for_bit():
    mx.random.seed(0)
    model, x = stirred(inject(Encoder())), mx.random.normal((2, 5, WIDTH))
    found = []
    for again in (False, True):
        model.inner.checkpoint = again
        found.append(gradients(model, x))
    assert np.abs(found[1]["inner.layers.0.hyper_connections.0.bias"]).max() > 1e-6
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0])


def test_nothing_is_kept_after_a_call(case):
    model, x, _ = case
    inject(model)
    model(x)
    blocks = [part for part in model.modules() if isinstance(part, splitting.MultiStream)]
    assert blocks
    assert all(block.hyper_call is None for block in blocks)
    with pytest.raises(ValueError, match="expand"):
        blocks[-1](mx.zeros((1, WIDTH + 1)), None)
    assert all(block.hyper_call is None for block in blocks)


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.work = nn.Linear(WIDTH, WIDTH)


class Mine(nn.Module):
    """A block of an architecture that nobody knows, whose branch ends inside of a submodule."""

    def __init__(self):
        super().__init__()
        self.before, self.inside = nn.LayerNorm(WIDTH), Inner()

    def __call__(self, hidden: mx.array, factor: float = 1.0) -> tuple[mx.array, float]:
        return hidden + self.inside.work(self.before(hidden) * factor), factor


class Stack(nn.Module):
    def __init__(self, block: type[nn.Module] = Mine):
        super().__init__()
        self.blocks = [block() for _ in range(3)]

    def __call__(self, x: mx.array) -> mx.array:
        for block in self.blocks:
            x, factor = block(hidden=x, factor=0.5)
            assert factor == 0.5
        return x


MINE = Adapter(("Mine",), (Branch("before", "inside.work"),), state="hidden")


def adapter(name: str) -> Adapter:
    return Adapter((name,), MINE.branches, state="hidden")


@pytest.mark.parametrize("name", ["Mine", f"{Mine.__module__}.Mine"])
def test_an_adapter_of_ones_own(name):
    model, x = Stack(), mx.random.normal((2, WIDTH))
    before = model(x)
    inject(model, adapters=[adapter(name)], example=x)
    assert len(connections(model)) == 3
    assert close(model(x), before)


def test_half_precision_is_compared_as_such():
    model, x = Stack(), mx.random.normal((2, WIDTH)).astype(mx.bfloat16)
    model.set_dtype(mx.bfloat16)
    inject(model, adapters=[MINE], example=x)
    assert model(x).dtype == mx.bfloat16
    assert {value.dtype for value in connection_parameters(model).values()} == {mx.float32}


class Wrong(Mine):
    """Adds twice what it makes."""

    def __call__(self, hidden: mx.array, factor: float = 1.0) -> tuple[mx.array, float]:
        return hidden + 2 * self.inside.work(self.before(hidden)), factor


def test_an_adapter_that_is_wrong_is_found_out_and_taken_back():
    model, x = Stack(Wrong), mx.random.normal((2, WIDTH))
    names = list(flat(model.parameters()))
    with pytest.raises(CannotInject, match="blocks are not what their adapter says"):
        inject(model, adapters=[adapter("Wrong")], example=x)
    assert list(flat(model.parameters())) == names
    assert not is_injected(model)


class Lazy(Mine):
    """Does not call what it has."""

    def __call__(self, hidden: mx.array, factor: float = 1.0) -> tuple[mx.array, float]:
        return hidden + self.before(hidden), factor


def test_a_block_that_does_not_run_its_branches_is_refused():
    model = inject(Stack(Lazy), adapters=[adapter("Lazy")])
    with pytest.raises(CannotInject, match="ran 0 of its 1 branches"):
        model(mx.zeros((2, WIDTH)))


class Replaced(Mine):
    pass


def test_a_block_whose_code_was_replaced_is_refused(monkeypatch):
    """mx.checkpoint around the original code would not see the streams: the gradients would be wrong without a word."""
    model, plain, x = Stack(Replaced), Stack(Replaced), mx.zeros((2, WIDTH))
    inject(model, adapters=[adapter("Replaced")])
    code = Replaced.__call__
    monkeypatch.setattr(Replaced, "__call__", lambda *args, **keys: code(*args, **keys), raising=False)
    for wrong in (lambda: inject(plain, adapters=[adapter("Replaced")]), lambda: model(x)):
        with pytest.raises(CannotInject, match=r"call inject\(model\) first"):
            wrong()


@pytest.mark.parametrize("branches", [(), (Branch("norm", "a"), Branch("norm", "b"))])
def test_an_adapter_needs_branches_that_can_be_told_apart(branches):
    with pytest.raises(ValueError, match="begin at submodules of their own"):
        Adapter(("Mine",), branches)


def shared() -> nn.Module:
    block = Residual(branch())
    return nn.Sequential(block, block)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU()), "no residual blocks that are known.*Linear, ReLU"),
        (lambda: Encoder(norm_first=False), "build it with norm_first=True"),
        (shared, "a block occurs twice"),
        (lambda: nn.Sequential(Residual(nn.Tanh())), r"type inject\(..., width=<C>\)"),
        (lambda: inject(Encoder()), r"eject\(model\) takes them out"),
    ],
)
def test_what_cannot_be_split_is_refused(model, said):
    with pytest.raises(CannotInject, match=said):
        inject(model())


def test_a_model_that_is_refused_half_way_is_left_as_it_was():
    model = nn.Sequential(Residual(branch()), Residual(nn.Tanh()))
    names = list(flat(model.parameters()))
    with pytest.raises(CannotInject, match="width"):
        inject(model)
    assert list(flat(model.parameters())) == names
    assert not is_injected(model)


def test_ejecting_what_was_not_injected_is_refused():
    with pytest.raises(CannotInject, match=r"inject\(model\) puts them in"):
        eject(Encoder())


def test_a_block_of_the_laboratorys_demos_keeps_its_additions():
    model, x = inject(Encoder(), "demo_mhc"), mx.random.normal((2, 5, WIDTH))
    assert len(connections(model)) == 2
    assert not preserves(model)
    assert model(x).shape == x.shape


def test_initial_values_that_are_asked_for_are_kept():
    model = inject(Encoder(), "mhc", init="lite_repo", reduce="sum")
    assert {(one.variant.init, one.variant.reduce) for one in connections(model)} == {("lite_repo", "sum")}
    assert not preserves(model)


def test_an_example_that_shows_nothing_is_answered():
    class Choice(nn.Module):
        def __call__(self, x: mx.array) -> mx.array:
            return mx.argmax(x, -1)

    model = nn.Sequential(sequential(), Choice())
    with pytest.raises(CannotInject, match="nothing can be compared; leave `example` out"):
        inject(model, example=mx.random.normal((3, 4)))
    assert not is_injected(model)


def test_words_that_there_are_not_are_answered():
    model = sequential()
    with pytest.raises(ValueError, match="train='conections' is not one of 'all', 'connections'"):
        inject(model, train="conections")  # type: ignore[arg-type]
    assert not is_injected(model)


def test_a_budget_is_shared_by_the_connections_that_there_are():
    model = inject(sequential(), "c_mhc", site="block")
    shares = {one._share for one in connections(model)}
    assert shares == {mixing_share(connections(model)[0].variant.mix, len(connections(model)))}


def test_an_example_may_return_what_is_infinite():
    class Head(nn.Module):
        def __call__(self, x: mx.array) -> mx.array:
            return mx.where(x > 0, x, -mx.inf)

    model = nn.Sequential(sequential(), Head())
    assert preserves(inject(model, example=mx.random.normal((3, 4))))
