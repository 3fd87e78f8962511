"""Wirings whose state is not n equal streams, around anybody's modules: segments of the width, sparse streams."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
import torch
from mlx import nn as mlx_nn
from small_models import WIDTH as MODEL_WIDTH
from small_models import ResNet, encoder
from torch import nn
from twins import WIDTH, MLXBranch, TorchBranch, same_outputs_and_gradients, stirred, take_over

from mhc_exp import mlx as theirs
from mhc_exp.config import named
from mhc_exp.config.build import ConfigError
from mhc_exp.topology import families
from mhc_exp.torch import (
    ExpandStreams,
    HyperConnection,
    HyperSequential,
    ReduceStreams,
    Watch,
    connection_parameters,
    connections,
    eject,
    inject,
    preserves,
)
from mhc_exp.torch.kernels.build import Unavailable
from mhc_exp.torch.topology import build

KEYS = {
    "frac": {},
    "frac of 2": {"segments": 2, "fractions": 2, "coefficients": "static"},
    "vwn": {},
    "xhc": {"streams": 5},
    "xhc unrouted": {"streams": 3, "active": 3, "fixed": 3},
}
every = pytest.mark.parametrize("case", KEYS)


def spec_of(case: str) -> tuple[str, dict]:
    return case.split()[0], KEYS[case]


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 3, WIDTH)).astype(np.float32)


@every
def test_a_stack_is_the_laboratorys_wiring(case, x):
    """Same numbers, from the same initial values: one implementation, two doors."""
    torch.manual_seed(0)
    name, keys = spec_of(case)
    branches = [TorchBranch() for _ in range(4)]
    stack = HyperSequential(branches, WIDTH, variant=name, **keys)
    spec = named.variant(name, keys)
    wiring = build(spec, WIDTH, 2)
    start = families.values(spec, WIDTH, 2, 0)
    wiring.load_state_dict({key.removeprefix("topology."): torch.from_numpy(one) for key, one in start.items()})
    given = torch.from_numpy(x)
    torch.testing.assert_close(stack(given), wiring(given, branches), rtol=1e-6, atol=1e-6)
    own = connection_parameters(stack)
    assert sum(one.numel() for one in own) == sum(one.numel() for one in wiring.parameters())


@every
def test_a_stack_in_mlx_is_pytorchs(case, x):
    torch.manual_seed(0)
    name, keys = spec_of(case)
    twin = HyperSequential([TorchBranch() for _ in range(3)], WIDTH, variant=name, **keys)
    stack = theirs.HyperSequential([MLXBranch() for _ in range(3)], WIDTH, variant=name, **keys)
    start = {key: one.detach().numpy() for key, one in twin.named_parameters() if "branch" not in key}
    found = theirs.connection_parameters(stack)
    assert start.keys() == found.keys()
    assert all(np.array_equal(np.array(found[key]), one) for key, one in start.items())
    take_over(stack, stirred(twin))
    same_outputs_and_gradients(stack, twin, x)


@pytest.mark.parametrize(
    ("name", "keys", "wider"),
    [("frac", {}, 1), ("vwn", {}, 2), ("vwn", {"segments": 6}, 1.5)],
    ids=["frac", "vwn", "vwn of 1.5 widths"],
)
def test_segments_leave_a_model_the_function_it_was(name, keys, wider):
    """The state of frac is no wider than without it."""
    torch.manual_seed(0)
    model, x = encoder().eval(), torch.randn(2, 5, MODEL_WIDTH)
    names, before, after_one = list(model.state_dict()), model(x), model.layers[0](x)
    inject(model, name, example=x, **keys)
    states = []
    model.layers[0].register_forward_hook(lambda module, args, output: states.append(output))
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)
    assert preserves(model)
    assert states[0].numel() == wider * x.numel()
    torch.testing.assert_close(model.layers[-1].hyper_reduce(states[0]), after_one, rtol=1e-5, atol=1e-5)
    assert len(connections(model)) == 6
    optimizer = torch.optim.SGD(connection_parameters(model), lr=0.01)
    losses = []
    target = torch.randn(x.shape)
    for _ in range(5):
        optimizer.zero_grad()
        loss = (model(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    eject(model)
    assert list(model.state_dict()) == names
    assert torch.equal(model(x), before)


def test_the_norm_at_the_end_of_vwn_may_be_asked_for_and_promises_nothing():
    model = inject(encoder(), "vwn", reduce_norm="group")
    assert not preserves(model)


def test_routed_streams_are_a_model_to_train_from_scratch():
    torch.manual_seed(0)
    model, x = encoder().eval(), torch.randn(2, 5, MODEL_WIDTH)
    before = model(x)
    inject(model, "xhc", streams=6)
    assert not preserves(model)
    assert (model(x) - before).abs().max() > 0.01
    assert connections(model)[0].variant.reduce == "mean"


def test_images_are_split_along_their_channels():
    torch.manual_seed(0)
    model, x = ResNet().eval(), torch.randn(2, 3, 8, 8)
    before = model(x)
    inject(model, "frac", segments=2, fractions=2)
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)


@every
def test_coefficients_stay_float32_in_a_half_precision_model(case, x):
    name, keys = spec_of(case)
    stack = HyperSequential([TorchBranch() for _ in range(2)], WIDTH, variant=name, **keys).bfloat16()
    assert {one.dtype for part in connections(stack) for one in part.parameters()} == {torch.float32}
    half = stack(torch.from_numpy(x).bfloat16())
    assert half.dtype is torch.bfloat16
    exact = stack.float()(torch.from_numpy(x))
    assert (half.float() - exact).abs().max() < 0.1 * exact.abs().max()
    ours = theirs.HyperSequential([MLXBranch() for _ in range(2)], WIDTH, variant=name, **keys)
    ours.set_dtype(mx.bfloat16)
    assert {one.dtype for key, one in theirs.connection_parameters(ours).items() if "connections" in key} == {
        mx.float32
    }
    assert ours(mx.array(x).astype(mx.bfloat16)).dtype == mx.bfloat16


@every
def test_watching_sees_them(case, x, tmp_path):
    name, keys = spec_of(case)
    stack = stirred(HyperSequential([TorchBranch() for _ in range(3)], WIDTH, variant=name, **keys))
    watch = Watch(stack, tmp_path, every=1)
    with watch.step() as row:
        row["train/loss"] = loss = stack(torch.from_numpy(x)).square().mean()
        loss.backward()
    watch.close()
    text = (tmp_path / "layers.jsonl").read_text()
    assert len(text.splitlines()) == 1
    assert all(column in text for column in ('"grad/flow"', '"mix/mean_0_1"', '"grad/read"'))


def test_a_model_in_mlx_keeps_its_function():
    mx.random.seed(0)
    model = mlx_nn.Sequential(*(theirs.Residual(MLXBranch()) for _ in range(3)))
    x = mx.random.normal((3, WIDTH))
    before = model(x)
    theirs.inject(model, "frac", example=x)
    assert theirs.preserves(model)
    assert mx.allclose(model(x), before, atol=1e-5)
    assert theirs.connections(model)[0].state_shape == (4, WIDTH // 4)
    theirs.eject(model)
    assert mx.array_equal(model(x), before)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: HyperConnection(nn.Identity(), 10, variant="frac"), "must divide the width of the body, 10, got 4"),
        (lambda: ExpandStreams("frac", 10), "must divide the width"),
        (lambda: ReduceStreams("frac", 10), "must divide the width"),
        (lambda: theirs.ExpandStreams("frac", 10), "must divide the width"),
        (lambda: HyperSequential([nn.Identity()], 8, variant="vwn", segments=6), "type variant.reduce_norm=none"),
        (lambda: HyperConnection(nn.Identity(), 8, 2, "frac"), "type segments=2 with fractions="),
        (lambda: HyperConnection(nn.Identity(), 8, 2, "xhc"), "4 of 2 streams cannot be updated"),
        (lambda: HyperConnection(nn.Identity(), 8, variant="xhc", mix={"budget": 4.0}), "type layers=<their number>"),
    ],
)
def test_what_cannot_be_is_answered(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


def test_wrong_states_and_kernels_that_there_are_not(x):
    connection = HyperConnection(nn.Identity(), WIDTH, variant="frac")
    with pytest.raises(
        ValueError, match=r"\[\*, 4, 2\].*call ExpandStreams\('frac', 8, segments=4, fractions=4\)\(x\)"
    ):
        connection(torch.from_numpy(x))
    with pytest.raises(Unavailable, match="family segments has none of its own; type kernels='auto'"):
        HyperConnection(nn.Identity(), WIDTH, variant="frac", kernels="native")


@pytest.mark.parametrize("name", ["mhc", "frac", "vwn", "deepseek_v4"])
@pytest.mark.parametrize("width", [WIDTH // 2, 2 * WIDTH])
def test_a_state_of_another_width_is_no_state(name, width):
    expand, reduce = ExpandStreams(name, WIDTH), ReduceStreams(name, WIDTH)
    for ends, zeros in ((expand, torch.zeros), (theirs.ExpandStreams(name, WIDTH), mx.zeros)):
        with pytest.raises(ValueError, match=rf"a state of width {WIDTH}, got \[2, {width}\]"):
            ends(zeros((2, width)))
    for ends, zeros in ((reduce, torch.zeros), (theirs.ReduceStreams(name, WIDTH), mx.zeros)):
        with pytest.raises(ValueError, match="to be reduced are streams"):
            ends(zeros((2, reduce.state_shape[0], width)))


@every
def test_batches_of_nothing_and_single_vectors_pass(case, x):
    name, keys = spec_of(case)
    stack = HyperSequential([TorchBranch() for _ in range(2)], WIDTH, variant=name, **keys)
    assert stack(torch.zeros(0, 5, WIDTH)).shape == (0, 5, WIDTH)
    torch.testing.assert_close(stack(torch.from_numpy(x[0, 0])), stack(torch.from_numpy(x))[0, 0])


def test_large_activations_of_half_precision_are_not_lost():
    """The square of 300 is no float16."""

    class Nothing(nn.Module):
        def forward(self, x):
            return 0 * x

    stack = HyperSequential([Nothing()], WIDTH, variant="vwn").half()
    torch.testing.assert_close(stack(300 * torch.ones(1, WIDTH).half()), torch.ones(1, WIDTH).half())


def test_a_mean_of_three_survives_a_cast():
    keys = {"segments": 12, "fractions": 4}
    expand, reduce = ExpandStreams("frac", WIDTH, **keys), ReduceStreams("frac", WIDTH, **keys).bfloat16().float()
    given = torch.randn(3, WIDTH)
    torch.testing.assert_close(reduce(expand(given)), given)


@every
def test_what_computes_and_what_is_computed_can_be_asked(case, x):
    name, keys = spec_of(case)
    connection = stirred(HyperConnection(TorchBranch(), WIDTH, variant=name, **keys)).connection
    streams = ExpandStreams(name, WIDTH, **keys)(torch.from_numpy(x))
    assert connection.tier(streams).name == "eager"
    found, seen = connection.coefficients(streams), []
    connection.observe = lambda coefficients, new: seen.append(coefficients)
    u, entered = connection.read(streams)
    connection.write(entered, u)
    assert all(torch.equal(one, two) for one, two in zip(found, seen[0], strict=True))
    ours = theirs.HyperConnection(MLXBranch(), WIDTH, variant=name, **keys).connection
    take_over(ours, connection)
    for one, two in zip(ours.coefficients(mx.array(streams.detach().numpy())), found, strict=True):
        np.testing.assert_allclose(np.array(one), two.detach().numpy(), rtol=1e-4, atol=1e-5)
