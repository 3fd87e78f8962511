"""Streams in models that are there already: PyTorch's own layers, ResNets, residual blocks in a Sequential."""

from __future__ import annotations

import copy
import io
import shutil

import pytest
import torch
from small_models import MODELS, WIDTH, ResNet, encoder, sequential
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mhc_exp.config.build import ConfigError
from mhc_exp.topology.layout import mixing_share
from mhc_exp.torch import (
    Adapter,
    Branch,
    CannotInject,
    HyperSequential,
    connection_parameters,
    connections,
    eject,
    freeze_body,
    inject,
    is_injected,
    parameter_groups,
    preserves,
)


@pytest.fixture(params=MODELS)
def case(request):
    torch.manual_seed(0)
    build, shape, count = MODELS[request.param]
    return build(), torch.randn(shape), count


def stirred(model: nn.Module) -> nn.Module:
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in connection_parameters(model):
            parameter += 0.5 * torch.randn(parameter.shape, generator=random)
    return model


def loss(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).square().mean()


@pytest.mark.parametrize("variant", ["mhc", "hc", "identity_hc", "mhc_lite", "kromhc", "ohc", "c_mhc"])
def test_the_function_is_the_same_at_step_0_and_not_afterwards(case, variant):
    model, x, count = case
    model.eval()
    before = model(x)
    assert inject(model, variant) is model
    assert preserves(model)
    assert len(connections(model)) == count
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(stirred(model)(x), before, rtol=1e-3, atol=1e-3)


def test_gradients_of_the_body_are_the_same_at_step_0(case):
    """In evaluation mode and in training, where batches norm themselves."""
    model, x, _ = case
    body = dict(model.named_parameters())
    expected = torch.autograd.grad(loss(model, x), list(body.values()))
    inject(model)
    found = torch.autograd.grad(loss(model, x), list(body.values()))
    size = max(float(gradient.abs().max()) for gradient in expected)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-5 * size)


def test_ejecting_gives_the_model_back(case):
    model, x, _ = case
    names, kinds, before = list(model.state_dict()), [type(part) for part in model.modules()], model.eval()(x)
    inject(model)
    assert set(names) < set(model.state_dict())
    stirred(model)
    assert is_injected(model)
    assert eject(model) is model
    assert not is_injected(model)
    assert list(model.state_dict()) == names
    assert [type(part) for part in model.modules()] == kinds
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    assert torch.equal(model(x), before)


def test_no_inner_residual_remains():
    """The split encoder is the stack of its sublayers, each in a connection of its own."""
    torch.manual_seed(0)
    model, x = encoder(2).eval(), torch.randn(2, 5, WIDTH)
    inject(model, "mhc", kernels="eager")
    parts = []
    for layer in model.layers:
        parts += [SelfAttention(layer), nn.Sequential(layer.norm2, layer.linear1, nn.ReLU(), layer.linear2)]
    stack = HyperSequential(parts, WIDTH, reduce="mean", init="preserving", kernels="eager")
    stirred(model)
    for ours, theirs in zip(connections(stack), connections(model), strict=True):
        ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(model(x), model.norm(stack(x)), rtol=1e-5, atol=1e-5)


class SelfAttention(nn.Module):
    def __init__(self, layer: nn.Module):
        super().__init__()
        self.norm, self.attention = layer.norm1, layer.self_attn

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return self.attention(x, x, x, need_weights=False)[0]


def test_what_a_block_adds_to_itself_reaches_nothing(case):
    """A body that is handed NaN where the zeros are computes the same."""
    model, x, _ = case
    stirred(inject(model.eval()))
    before = model(x)
    poisoned = Tensor.new_zeros
    try:
        Tensor.new_zeros = lambda self, *size, **keys: poisoned(self, *size, **keys) + float("nan")  # type: ignore[method-assign]
        after = model(x)
    finally:
        Tensor.new_zeros = poisoned  # type: ignore[method-assign]
    assert torch.equal(after, before)


@pytest.mark.parametrize("build", [encoder, ResNet, sequential])
def test_training_lowers_the_loss_and_moves_every_connection(build):
    torch.manual_seed(0)
    model = build()
    x = torch.randn(next(shape for make, shape, _ in MODELS.values() if make is build))
    target = torch.randn_like(model(x))
    inject(model)
    start = [parameter.detach().clone() for parameter in connection_parameters(model)]
    optimizer = torch.optim.AdamW(parameter_groups(model, 3e-3, 0.1, connection_lr=1e-2))
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        error = (model(x) - target).square().mean()
        error.backward()
        optimizer.step()
        losses.append(float(error.detach()))
    assert losses[-1] < 0.8 * losses[0]
    moved = [not torch.equal(one, two) for one, two in zip(start, connection_parameters(model), strict=True)]
    assert all(moved)


def test_fine_tuning_moves_the_connections_alone():
    torch.manual_seed(0)
    model, x = encoder(), torch.randn(2, 5, WIDTH)
    body = {name: value.clone() for name, value in model.state_dict().items()}
    inject(model, train="connections")
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in connection_parameters(model)}
    optimizer = torch.optim.SGD(parameter_groups(model, 0.1))
    for _ in range(3):
        optimizer.zero_grad()
        loss(model, x).backward()
        optimizer.step()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in body.items())
    assert all(p.requires_grad for p in freeze_body(model.requires_grad_(True)).parameters()) is False


def test_copies_pickles_and_state_dicts(case):
    model, x, _ = case
    plain = copy.deepcopy(model)
    stirred(inject(model.eval()))
    found, twin, file = model(x), copy.deepcopy(model), io.BytesIO()
    with torch.no_grad():
        for parameter in connection_parameters(model):
            parameter.zero_()
    assert torch.equal(twin(x), found)
    torch.save(twin, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), found)
    inject(plain.eval()).load_state_dict(twin.state_dict())
    assert torch.equal(plain(x), found)
    eject(twin)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in twin.modules())


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # PyTorch's own, while it traces
def test_compiling_gives_the_same_numbers():
    """In one piece; few iterations and one layer, since tracing takes a second per connection."""
    torch.manual_seed(0)
    model, x = encoder(1), torch.randn(2, 5, WIDTH)
    stirred(inject(model, "mhc", options={"mix.iterations": 2}))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ for a CPU")
@pytest.mark.filterwarnings("ignore")  # of the compiler about itself
def test_a_compiled_step_has_the_same_gradients():
    """By inductor; identity_hc, since each iteration of Sinkhorn-Knopp would be compiled forwards and backwards."""
    torch.manual_seed(0)
    model, x = encoder(1), torch.randn(2, 5, WIDTH)
    stirred(inject(model, "identity_hc"))
    expected = torch.autograd.grad(loss(model, x), list(model.parameters()))
    found = torch.autograd.grad(loss(torch.compile(model, fullgraph=True), x), list(model.parameters()))
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_recomputed_blocks_have_the_same_gradients_bit_for_bit():
    torch.manual_seed(0)
    model, x = stirred(inject(encoder(dropout=0.1))), torch.randn(2, 5, WIDTH)
    found = []
    for again in (False, True):
        torch.manual_seed(5)
        state = x
        for layer in model.layers:
            state = checkpoint(layer, state, use_reentrant=False) if again else layer(state)
        found.append(torch.autograd.grad(state.square().mean(), list(model.layers.parameters())))
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_distributed_training_sees_all_parameters(tmp_path):
    torch.manual_seed(0)
    model, x = stirred(inject(encoder())), torch.randn(2, 5, WIDTH)
    expected = torch.autograd.grad(loss(model, x), list(model.parameters()))
    file = (tmp_path / "store").as_uri()
    torch.distributed.init_process_group("gloo", init_method=file, rank=0, world_size=1)
    try:
        loss(nn.parallel.DistributedDataParallel(model), x).backward()
        found = [parameter.grad for parameter in model.parameters()]
    finally:
        torch.distributed.destroy_process_group()
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two)


def test_masks_and_half_precision_pass():
    torch.manual_seed(0)
    model, x = encoder().eval(), torch.randn(2, 5, WIDTH)
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    before = model(x, mask=mask, is_causal=True)
    inject(model)
    torch.testing.assert_close(model(x, mask=mask, is_causal=True), before, rtol=1e-5, atol=1e-5)
    half = model.bfloat16()(x.bfloat16(), mask=mask.bfloat16())
    assert half.dtype is torch.bfloat16
    assert (half.float() - before).abs().max() < 0.1


def test_a_decoder_with_and_without_its_cross_attention():
    torch.manual_seed(0)
    layer = nn.TransformerDecoderLayer(WIDTH, 2, 32, 0.0, batch_first=True, norm_first=True)
    model, x, memory = nn.TransformerDecoder(layer, 2), torch.randn(2, 5, WIDTH), torch.randn(2, 3, WIDTH)
    before = model(x, memory)
    assert len(connections(inject(model))) == 6
    torch.testing.assert_close(model(x, memory), before, rtol=1e-5, atol=1e-5)


def test_a_block_of_the_laboratorys_demos_keeps_its_additions():
    model, x = inject(encoder(), "demo_mhc"), torch.randn(2, 5, WIDTH)
    assert len(connections(model)) == 3
    assert not preserves(model)
    assert model(x).shape == x.shape


def test_initial_values_that_are_asked_for_are_kept():
    model = inject(encoder(), "mhc", init="lite_repo", reduce="sum")
    assert {(one.variant.init, one.variant.reduce) for one in connections(model)} == {("lite_repo", "sum")}
    assert not preserves(model)
    with pytest.raises(ConfigError, match="did you mean"):
        inject(encoder(), "mhc", init="lite_rep")


class Wrong(nn.Module):
    """A block that adds more than its branch; an adapter may also name a submodule that does not run."""

    def __init__(self):
        super().__init__()
        self.norm, self.mix, self.idle = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states + self.mix(self.norm(hidden_states)) + 1


def wrong(end: str) -> Adapter:
    return Adapter(("Wrong",), (Branch("norm", end),))


@pytest.mark.parametrize(("end", "said"), [("mix", "not the same function"), ("idle", "ran 0 of its 1 branches")])
def test_a_model_that_is_refused_with_an_example_is_what_it_was(end, said):
    model, x = nn.Sequential(*(Wrong() for _ in range(2))), torch.randn(3, WIDTH)
    before = model(x)
    with pytest.raises(CannotInject, match=said):
        inject(model, adapters=[wrong(end)], example=x)
    assert not is_injected(model)
    assert torch.equal(model(x), before)


def test_an_example_that_shows_nothing_is_answered():
    class Choice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.argmax(-1)

    model = nn.Sequential(sequential(), Choice())
    with pytest.raises(CannotInject, match="nothing can be compared; leave `example` out"):
        inject(model, example=torch.randn(3, 4))
    assert not is_injected(model)


def test_words_that_there_are_not_are_answered():
    model = encoder()
    with pytest.raises(ValueError, match="train='conections' is not one of 'all', 'connections'"):
        inject(model, train="conections")  # type: ignore[arg-type]
    assert not is_injected(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_example_of_half_precision_is_compared_as_such(dtype):
    torch.manual_seed(0)
    model, x = encoder().to(dtype), torch.randn(2, 5, WIDTH, dtype=dtype)
    assert preserves(inject(model, "mhc", example=x))


def test_an_example_changes_no_mode_and_may_return_what_is_no_number():
    class Head(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return x, x > 0, torch.where(x > 0, x, float("-inf"))

    torch.manual_seed(0)
    model = nn.Sequential(sequential(), nn.Dropout(), Head())
    model[1].eval()
    modes = [module.training for module in model.modules()]
    inject(model, example=torch.randn(3, 4))
    eject(model)
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize(("keys", "count"), [({}, 6), ({"site": "block"}, 3)])
def test_a_budget_is_shared_by_the_connections_that_there_are(keys, count):
    """A decoder layer without cross attention has two, though its adapter knows three."""
    model = inject(encoder(), "c_mhc", **keys)
    assert len(connections(model)) == count
    spec = connections(model)[0].variant
    assert {one.share for one in connections(model)} == {mixing_share(spec.mix, count)}
