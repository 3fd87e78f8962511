"""The building blocks are the laboratory's connections around anybody's modules."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from mhc_exp import torch as backend
from mhc_exp.config import named
from mhc_exp.config.build import ConfigError
from mhc_exp.topology import reference
from mhc_exp.topology.charts import CHARTS
from mhc_exp.topology.streams import values
from mhc_exp.torch import (
    LIBRARY,
    ExpandStreams,
    HyperConnection,
    HyperConnection2d,
    HyperSequential,
    ReduceStreams,
    StreamConnection,
    doubly_stochastic,
    expand_streams,
    identity_preserving,
    library,
    mixing_matrix,
    parameter_groups,
    reduce_streams,
    simplex,
)
from mhc_exp.torch.kernels.build import Unavailable
from mhc_exp.torch.streams import HyperStreams

WIDTH = 12
ALONE = (
    "hc",
    "mhc",
    "mhc_lite",
    "kromhc",
    "go_mhc",
    "ohc",
    "tbp_mhc",
    "c_mhc",
    "identity_hc",
    "deepseek_v4",
    "mhc_lss",
)


def branch(width: int = WIDTH) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.Tanh())


def stirred(module: nn.Module) -> nn.Module:
    """With connections away from their initial values."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=random)
    return module


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("variant", ALONE)
def test_a_stack_is_the_laboratorys_wiring(variant, x):
    """Same numbers as HyperStreams, from the same initial values: one implementation, two doors."""
    torch.manual_seed(0)
    branches = [branch() for _ in range(4)]
    stack = HyperSequential(branches, WIDTH, variant=variant, kernels="eager")
    spec = named.streams(variant)
    wiring = HyperStreams(spec, WIDTH, 2)
    start = values(spec, WIDTH, 2, 0)
    wiring.load_state_dict({name.removeprefix("topology."): torch.from_numpy(value) for name, value in start.items()})
    torch.testing.assert_close(stack(x), wiring(x, branches), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("variant", ["mhc", "hc", "deepseek_v4"])
def test_the_fast_tier_is_the_eager_one(variant, x):
    torch.manual_seed(0)
    branches = [branch() for _ in range(3)]
    fast, eager = (HyperSequential(branches, WIDTH, variant=variant, kernels=tier) for tier in ("auto", "eager"))
    stirred(fast)
    eager.load_state_dict(fast.state_dict())
    assert fast.connections[0].connection.tier(expand_streams(x)).name != eager.connections[0].connection.tier(x).name
    ours, exact = gradients(fast, x), gradients(eager, x)
    size = max(float(value.detach().abs().max()) for value in exact)
    for one, two in zip(ours, exact, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-5 * size)


def gradients(module: nn.Module, x: Tensor) -> list[Tensor]:
    outputs = module(x)
    return [outputs, *torch.autograd.grad(outputs.square().sum(), list(module.parameters()))]


def test_a_connection_is_the_equation(x):
    """x' = H_res x + H_post^T F(H_pre x), written out."""
    connection = stirred(HyperConnection(branch(), WIDTH, layer_index=1))
    streams = torch.randn(3, 4, WIDTH, generator=torch.Generator().manual_seed(2))
    read, write, mix = connection.connection.coefficients(streams)
    y = connection.branch(torch.einsum("sn,nsc->nc", read, streams))
    expected = torch.einsum("ijn,njc->nic", mix, streams) + torch.einsum("sn,nc->nsc", write, y)
    torch.testing.assert_close(connection(streams), expected, rtol=1e-5, atol=1e-5)


def test_permuting_by_h_res_permutes_the_streams():
    """A mixing that is computed and then not applied would pass every test of shapes."""
    keys = {"coefficients": "static", "mix": {"chart": "free"}, "read.activation": "linear"}
    connection = HyperConnection(
        nn.Identity(), WIDTH, init="hc_paper", options={**keys, "write.activation": "linear"}
    ).connection
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        connection.bias[:8] = 0
        connection.bias[8:] = torch.eye(4)[order].flatten()
    streams = torch.randn(3, 4, WIDTH)
    u, entered = connection.read(streams)
    torch.testing.assert_close(connection.write(entered, u), streams[:, order])


class Attention(nn.Module):
    """A branch with a keyword and a second output."""

    def __init__(self):
        super().__init__()
        self.inner = branch()

    def forward(self, x: Tensor, scale: float, *, shift: Tensor) -> tuple[Tensor, str]:
        return self.inner(x) * scale + shift, "weights"


@pytest.mark.parametrize("checkpoint", [False, True])
def test_arguments_and_tuples_pass_through(checkpoint, x):
    connection = HyperConnection(Attention(), WIDTH, checkpoint=checkpoint)
    streams, rest = connection(expand_streams(x), 2.0, shift=torch.ones(WIDTH))
    assert streams.shape == (2, 5, 4, WIDTH)
    assert rest == "weights"


def test_recomputation_gives_the_same_gradients_bit_for_bit(x):
    torch.manual_seed(0)
    branches = [nn.Sequential(branch(), nn.Dropout(0.5)) for _ in range(4)]
    kept, again = (HyperSequential(branches, WIDTH, checkpoint=on) for on in (False, True))
    found = []
    for stack in (kept, again):
        torch.manual_seed(3)
        found.append(gradients(stack, x))
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_every_parameter_has_a_gradient_that_is_not_zero_once_streams_differ(x):
    torch.manual_seed(0)
    stack = stirred(HyperSequential([branch() for _ in range(4)], WIDTH, variant="mhc"))
    names = [name for name, _ in stack.named_parameters()]
    zero = [name for name, g in zip(names, gradients(stack, x)[1:], strict=True) if not g.abs().max() > 1e-7]
    assert zero == []


def test_images_are_branches_on_their_channels():
    torch.manual_seed(0)
    convolution, image = nn.Conv2d(6, 6, 3, padding=1), torch.randn(2, 6, 4, 5)
    connection = stirred(HyperConnection2d(convolution, 6, streams=3))
    streams = torch.randn(2, 4, 5, 3, 6)
    assert expand_streams(image, 3, channel_dim=1).shape == (2, 4, 5, 3, 6)
    torch.testing.assert_close(reduce_streams(expand_streams(image, 3, 1), "mean", 1), image)
    read, write, mix = connection.connection.coefficients(streams)
    flat = streams.flatten(0, 2)
    u = torch.einsum("sn,nsc->nc", read, flat).view(2, 4, 5, 6)
    y = convolution(u.movedim(-1, 1)).movedim(1, -1).reshape(-1, 6)
    expected = torch.einsum("ijn,njc->nic", mix, flat) + torch.einsum("sn,nc->nsc", write, y)
    torch.testing.assert_close(connection(streams).flatten(0, 2), expected, rtol=1e-4, atol=1e-5)


def test_a_learned_beginning_and_end():
    spec = named.streams("deepseek_v4", {"expand": "learned_scale"})
    x = torch.randn(2, 3, WIDTH)
    expand, reduce = ExpandStreams(spec, WIDTH), ReduceStreams(spec, WIDTH)
    assert expand(x).shape == (2, 3, 4, WIDTH)
    torch.testing.assert_close(reduce(expand(x)), (expand(x) * 0.5).sum(2), rtol=1e-4, atol=1e-4)
    assert len(list(reduce.parameters())) == 3


def test_the_parts_alone_take_names_and_keys(x):
    """A block of one's own: what HyperSequential does, written out."""
    body, keys = branch(), {"streams": 2, "expand": "learned_scale"}
    whole = HyperSequential([body], WIDTH, variant="deepseek_v4", **keys)
    expand, reduce = ExpandStreams("deepseek_v4", WIDTH, **keys), ReduceStreams("deepseek_v4", WIDTH, **keys)
    connection = StreamConnection("deepseek_v4", WIDTH, **keys)
    u, entered = connection.read(expand(x))
    assert torch.equal(reduce(connection.write(entered, body(u))), whole(x))
    with pytest.raises(ConfigError, match="unknown 'mhcc'"):
        ExpandStreams("mhcc", WIDTH)


def test_coefficients_stay_float32_in_a_half_precision_model(x):
    stack = HyperSequential([branch() for _ in range(2)], WIDTH).bfloat16()
    own = [p.dtype for part in stack.modules() if isinstance(part, StreamConnection) for p in part.parameters()]
    assert set(own) == {torch.float32}
    assert stack(x.bfloat16()).dtype is torch.bfloat16
    connection = stack.connections[0].connection
    mix = connection.coefficients(expand_streams(x.bfloat16())).mix
    assert (mix.sum(1) - 1).abs().max() < 1e-6
    assert {p.dtype for p in stack.double().parameters()} == {torch.float64}


def test_a_learned_read_out_can_be_cast(x):
    stack = HyperSequential([branch()], WIDTH, variant="deepseek_v4")
    exact = stack(x)
    half = stack.bfloat16()(x.bfloat16())
    assert {p.dtype for p in stack.reduce.parameters()} == {torch.float32}
    assert (half.float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_half_precision_that_is_loaded_becomes_float32_again(x):
    stack = HyperSequential([branch()], WIDTH, variant="hc")
    values = {name: value.bfloat16() for name, value in stack.state_dict().items()}
    stack.load_state_dict(values, assign=True)
    own = {name: p.dtype for name, p in stack.named_parameters() if ".connection." in name}
    assert len(own) >= 3
    assert set(own.values()) == {torch.float32}
    assert stack(x.bfloat16()).shape == x.shape


def test_keys_reach_every_choice_of_a_variant():
    connection = HyperConnection(
        nn.Identity(),
        WIDTH,
        2,
        "mhc",
        coefficients="static",
        mix={"iterations": 3},
        options={"mix.order": "columns_last"},
    ).connection
    assert (connection.variant.streams, connection.variant.coefficients) == (2, "static")
    assert (connection.variant.mix.iterations, connection.variant.mix.order) == (3, "columns_last")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: HyperConnection(nn.Identity(), WIDTH, variant="mch"), "did you mean 'mhc'"),
        (lambda: HyperConnection(nn.Identity(), WIDTH, variant="c_mhc"), "type layers="),
        (lambda: HyperConnection(nn.Identity(), WIDTH, variant="deepseek_v41"), "read_from='current'"),
        (lambda: HyperConnection(nn.Identity(), WIDTH, variant="history"), "which HistoryConnection, MHCSequential"),
        (lambda: HyperConnection(nn.Identity(), WIDTH, variant="gated_residual"), "in place of the norm"),
        (lambda: HyperConnection(nn.Identity(), WIDTH, variant="attnres"), "has no connections that stand alone; type"),
        (lambda: HyperConnection(nn.Identity(), WIDTH, scale_output_init=True), "multiply your output projections"),
    ],
)
def test_what_cannot_be_is_answered(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


def test_wrong_shapes_are_answered(x):
    connection = HyperConnection(nn.Linear(WIDTH, 7), WIDTH)
    with pytest.raises(ValueError, match=r"call expand_streams\(x, 4\) once"):
        connection(x)
    with pytest.raises(ValueError, match="keep the shape"):
        connection(expand_streams(x))
    with pytest.raises(ValueError, match="'sum' or 'mean'"):
        reduce_streams(expand_streams(x), "max")


@pytest.mark.parametrize("variant", ["mhc", "frac"])
def test_kernels_that_there_are_not_are_answered(variant):
    with pytest.raises(ValueError, match="kernels='nativ' is not one of 'auto', 'native', 'eager'"):
        HyperConnection(nn.Identity(), WIDTH, variant=variant, kernels="nativ")


def test_native_kernels_are_refused_where_they_cannot_be(x):
    connection = HyperConnection(nn.Identity(), WIDTH, kernels="native")
    with pytest.raises(Unavailable, match="type kernels='auto'"):
        connection(expand_streams(x).double())


@pytest.mark.parametrize("chart", ["sinkhorn", "permutation", "kronecker", "cayley", "quaternion", "transport", "free"])
def test_charts_as_functions_are_the_reference(chart):
    count = CHARTS[chart].logits(4, 2)
    logits = torch.randn(count, 3, dtype=torch.float64)
    spec = named.streams("ohc" if chart == "quaternion" else "mhc", {"init": "near_identity"}).mix
    found = mixing_matrix(logits, 4, chart, eps=1e-8) if chart == "quaternion" else mixing_matrix(logits, 4, chart)
    spec = dataclasses.replace(spec, chart=chart)
    for token in range(3):
        expected = torch.from_numpy(reference.chart(logits[:, token].numpy(), 4, spec))
        torch.testing.assert_close(found[..., token], expected, rtol=1e-9, atol=1e-9)


def test_constraints_are_what_they_say():
    logits = torch.randn(5, 3)
    torch.testing.assert_close(simplex(logits).sum(0), torch.ones(3))
    weights = identity_preserving(logits - 9 * (torch.arange(5) == 0).unsqueeze(1), floor=0.2)
    torch.testing.assert_close(weights.sum(0), torch.ones(3))
    assert (weights[0] >= 0.2).all()
    matrix = doubly_stochastic(torch.randn(4, 4, 2), iterations=50)
    for axis in (0, 1):
        torch.testing.assert_close(matrix.sum(axis), torch.ones(4, 2), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="needs 16 logits"):
        mixing_matrix(torch.zeros(9), 4)


def test_connections_get_no_weight_decay():
    stack = HyperSequential([branch() for _ in range(2)], WIDTH)
    body, own = parameter_groups(stack, lr=1e-3, weight_decay=0.1, connection_lr=1e-2)
    assert (body["weight_decay"], own["weight_decay"], own["lr"]) == (0.1, 0.0, 1e-2)
    assert len(body["params"]) + len(own["params"]) == len(list(stack.parameters()))


def test_every_name_of_the_library_is_one_of_the_backend():
    assert frozenset(library.__all__) == LIBRARY
    assert all(getattr(backend, name) is getattr(library, name) for name in LIBRARY)
    with pytest.raises(AttributeError, match="no attribute 'HyperConection'"):
        _ = backend.HyperConection


@pytest.mark.parametrize("module", ["kernels.eager", "library.hyper"])
def test_any_module_of_the_backend_may_be_the_first(module):
    script = f"import sys, mhc_exp.torch.{module}; sys.exit('mhc_exp.torch.library' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert said.returncode == int(module.startswith("library")), said.stderr
