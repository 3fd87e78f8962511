"""The building blocks in MLX are those in PyTorch: same names, same numbers, same gradients."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest
import torch
from mlx import nn, optimizers
from twins import WIDTH, MLXBranch, TorchBranch, flat, same_outputs_and_gradients, stirred, take_over

from mhc_exp import mlx as backend
from mhc_exp import torch as theirs
from mhc_exp.config import named
from mhc_exp.config.build import ConfigError
from mhc_exp.mlx import (
    LIBRARY,
    ExpandStreams,
    HyperConnection,
    HyperConnection2d,
    HyperSequential,
    ReduceStreams,
    StreamConnection,
    connection_filter,
    connection_parameters,
    connections,
    doubly_stochastic,
    expand_streams,
    freeze_body,
    identity_preserving,
    library,
    mixing_matrix,
    reduce_streams,
    simplex,
)
from mhc_exp.topology.charts import CHARTS

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


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 3, WIDTH)).astype(np.float32)


@pytest.mark.parametrize("variant", ALONE)
def test_a_stack_is_pytorchs(variant, x):
    torch.manual_seed(0)
    twin = theirs.HyperSequential([TorchBranch() for _ in range(3)], WIDTH, variant=variant, kernels="eager")
    stack = HyperSequential([MLXBranch() for _ in range(3)], WIDTH, variant=variant)
    start = {name: value.detach().numpy() for name, value in twin.named_parameters() if "branch" not in name}
    assert start.keys() == connection_parameters(stack).keys()
    for name, value in connection_parameters(stack).items():
        np.testing.assert_array_equal(np.array(value), start[name])
    take_over(stack, stirred(twin))
    same_outputs_and_gradients(stack, twin, x)


def test_static_coefficients_are_pytorchs(x):
    keys = {"coefficients": "static", "mix": {"iterations": 3}, "streams": 2}
    twin = theirs.HyperSequential([TorchBranch() for _ in range(2)], WIDTH, kernels="eager", **keys)
    stack = HyperSequential([MLXBranch() for _ in range(2)], WIDTH, **keys)
    assert connections(stack)[1].coefficients(mx.zeros((5, 2, WIDTH))).read.shape == (2, 1)
    take_over(stack, stirred(twin))
    same_outputs_and_gradients(stack, twin, x)


def test_permuting_by_h_res_permutes_the_streams():
    """A mixing that is computed and then not applied would pass every test of shapes."""
    keys = {"coefficients": "static", "mix": {"chart": "free"}, "read.activation": "linear"}
    options = {**keys, "write.activation": "linear"}
    connection = HyperConnection(nn.Identity(), WIDTH, init="hc_paper", options=options).connection
    order = [2, 0, 3, 1]
    connection.bias = mx.concatenate([mx.zeros(8), mx.eye(4)[mx.array(order)].flatten()])
    streams = mx.random.normal((3, 4, WIDTH))
    u, entered = connection.read(streams)
    assert mx.array_equal(connection.write(entered, u), streams[:, mx.array(order)])


class Attention(nn.Module):
    """A branch with an argument, a keyword and a second output."""

    def __init__(self):
        super().__init__()
        self.inner = MLXBranch()

    def __call__(self, x: mx.array, scale: float, *, shift: mx.array) -> tuple[mx.array, str]:
        return self.inner(x) * scale + shift, "weights"


@pytest.mark.parametrize("checkpoint", [False, True])
def test_arguments_and_tuples_pass_through(checkpoint, x):
    connection = HyperConnection(Attention(), WIDTH, checkpoint=checkpoint)
    streams, rest = connection(expand_streams(mx.array(x)), 2.0, shift=mx.ones(WIDTH))
    assert streams.shape == (2, 3, 4, WIDTH)
    assert rest == "weights"
    gradient = mx.grad(lambda shift: connection(expand_streams(mx.array(x)), 2.0, shift=shift)[0].sum())
    assert mx.abs(gradient(mx.ones(WIDTH))).min() > 0.1


def test_recomputation_gives_the_same_gradients_bit_for_bit(x):
    branches = [MLXBranch() for _ in range(3)]
    found = []
    for on in (False, True):
        stack = HyperSequential(branches, WIDTH, checkpoint=on)
        value, tree = nn.value_and_grad(stack, lambda x, stack=stack: mx.square(stack(x)).sum())(mx.array(x))
        found.append({"loss": np.array(value), **flat(tree)})
    assert found[0].keys() == found[1].keys()
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0])
    assert np.abs(found[1]["connections.0.branch.linear.weight"]).max() > 1e-3


@pytest.mark.parametrize(
    ("branch", "said"),
    [(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.5)), "cannot recompute the Dropout"), (mx.tanh, "nn.Module")],
)
def test_what_would_be_recomputed_wrongly_is_refused(branch, said):
    with pytest.raises(ValueError, match=said):
        HyperConnection(branch, WIDTH, checkpoint=True)


def test_images_have_their_channels_last(x):
    """A convolution of PyTorch on [B, C, H, W] and one of MLX on [B, H, W, C], around the same streams."""
    torch.manual_seed(0)
    twin = stirred(theirs.HyperConnection2d(torch.nn.Conv2d(WIDTH, WIDTH, 3, padding=1), WIDTH, 3, kernels="eager"))
    connection = HyperConnection2d(nn.Conv2d(WIDTH, WIDTH, 3, padding=1), WIDTH, 3)
    values = {name: value.detach().numpy() for name, value in twin.named_parameters()}
    values["branch.weight"] = values["branch.weight"].transpose(0, 2, 3, 1)
    connection.load_weights([(name, mx.array(value)) for name, value in values.items()])
    image = np.random.default_rng(1).standard_normal((2, 4, 5, WIDTH)).astype(np.float32)
    streams = expand_streams(mx.array(image), 3)
    assert streams.shape == (2, 4, 5, 3, WIDTH)
    expected = twin(torch.from_numpy(np.array(streams))).detach().numpy()
    np.testing.assert_allclose(np.array(connection(streams)), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"needs streams \[B, H, W, S, C\]"):
        connection(expand_streams(mx.array(x), 3))


def test_a_learned_beginning_and_end(x):
    spec = named.streams("deepseek_v4", {"expand": "learned_scale"})
    expand, reduce = ExpandStreams(spec, WIDTH), ReduceStreams(spec, WIDTH)
    streams = expand(mx.array(x))
    assert streams.shape == (2, 3, 4, WIDTH)
    np.testing.assert_allclose(np.array(reduce(streams)), np.array((streams * 0.5).sum(2)), rtol=1e-4, atol=1e-4)
    assert len(connection_parameters(reduce)) == 3


def test_the_parts_alone_take_names_and_keys(x):
    """A block of one's own: what HyperSequential does, written out."""
    body, keys = MLXBranch(), {"streams": 2, "expand": "learned_scale"}
    whole = HyperSequential([body], WIDTH, variant="deepseek_v4", **keys)
    expand, reduce = ExpandStreams("deepseek_v4", WIDTH, **keys), ReduceStreams("deepseek_v4", WIDTH, **keys)
    connection = StreamConnection("deepseek_v4", WIDTH, **keys)
    u, entered = connection.read(expand(mx.array(x)))
    assert mx.array_equal(reduce(connection.write(entered, body(u))), whole(mx.array(x)))
    with pytest.raises(ConfigError, match="unknown 'mhcc'"):
        ExpandStreams("mhcc", WIDTH)


@pytest.mark.parametrize("variant", ["mhc", "hc"])
def test_coefficients_stay_float32_in_a_half_precision_model(variant, x):
    stack = HyperSequential([MLXBranch() for _ in range(2)], WIDTH, variant=variant)
    own = {name: np.array(value) for name, value in connection_parameters(stack).items()}
    stack.set_dtype(mx.bfloat16)
    kept = connection_parameters(stack)
    assert {value.dtype for value in kept.values()} == {mx.float32}
    assert all(np.array_equal(np.array(kept[name]), value) for name, value in own.items())
    assert stack.connections[0].branch.linear.weight.dtype == mx.bfloat16
    assert stack(mx.array(x).astype(mx.bfloat16)).dtype == mx.bfloat16
    other = mx.full(kept["connections.1.connection.bias"].shape, 0.7, mx.bfloat16)
    stack.load_weights([("connections.1.connection.bias", other)], strict=False)
    bias = stack.connections[1].connection.bias
    assert bias.dtype == mx.float32
    assert mx.array_equal(bias, other.astype(mx.float32))


@pytest.mark.skipif(shutil.which("g++") is None, reason="MLX compiles for a CPU with g++")
def test_compiled_modules_are_the_same(x):
    stack = HyperSequential([MLXBranch()], WIDTH, variant="identity_hc")
    compiled = mx.compile(lambda x: stack(x), inputs=[stack.state])
    np.testing.assert_allclose(np.array(compiled(mx.array(x))), np.array(stack(mx.array(x))), rtol=1e-5, atol=1e-5)


def test_copies_and_files_of_weights(x, tmp_path):
    stack = HyperSequential([MLXBranch() for _ in range(2)], WIDTH)
    before, twin = stack(mx.array(x)), copy.deepcopy(stack)
    stack.save_weights(str(tmp_path / "weights.safetensors"))
    for one in connections(stack):
        one.bias = one.bias + 1
    assert mx.array_equal(twin(mx.array(x)), before)
    assert not mx.allclose(stack(mx.array(x)), before)
    stack.load_weights(str(tmp_path / "weights.safetensors"))
    assert mx.array_equal(stack(mx.array(x)), before)


def test_connections_have_an_optimizer_of_their_own(x):
    """Body and connections with learning rates 0 and 0.1, and the other way round."""
    for rates in ((0.1, 0.0), (0.0, 0.1)):
        stack = HyperSequential([MLXBranch() for _ in range(3)], WIDTH, variant="deepseek_v4")
        own, before = connection_parameters(stack).keys(), flat(stack.parameters())
        optimizer = optimizers.MultiOptimizer([optimizers.SGD(rate) for rate in rates], [connection_filter(stack)])
        gradients = nn.value_and_grad(stack, lambda x, stack=stack: mx.square(stack(x)).sum())(mx.array(x))[1]
        optimizer.update(stack, gradients)
        after = flat(stack.parameters())
        moved = {name for name in before if not np.array_equal(before[name], after[name])}
        assert moved
        assert moved <= own if rates[0] else moved == before.keys() - own


def test_a_frozen_body_has_no_gradients(x):
    stack = freeze_body(HyperSequential([MLXBranch() for _ in range(2)], WIDTH, variant="mhc_lss"))
    tree = nn.value_and_grad(stack, lambda x: mx.square(stack(x)).sum())(mx.array(x))[1]
    assert flat(tree).keys() == connection_parameters(stack).keys()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: HyperConnection(nn.Identity(), WIDTH, variant="mch"), "did you mean 'mhc'"),
        (lambda: HyperConnection(nn.Identity(), WIDTH, variant="c_mhc"), "type layers="),
        (lambda: HyperConnection(nn.Identity(), WIDTH, variant="deepseek_v41"), "read_from='current'"),
        (lambda: HyperConnection(nn.Identity(), WIDTH, scale_output_init=True), "multiply your output projections"),
    ],
)
def test_what_cannot_be_is_answered(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


def test_wrong_shapes_are_answered(x):
    connection = HyperConnection(nn.Linear(WIDTH, 7), WIDTH)
    with pytest.raises(ValueError, match=r"call expand_streams\(x, 4\) once"):
        connection(mx.array(x))
    with pytest.raises(ValueError, match="keep the shape"):
        connection(expand_streams(mx.array(x)))
    with pytest.raises(ValueError, match="'sum' or 'mean'"):
        reduce_streams(expand_streams(mx.array(x)), "max")


@pytest.mark.parametrize("chart", ["sinkhorn", "permutation", "kronecker", "cayley", "quaternion", "transport", "free"])
def test_charts_as_functions_are_pytorchs(chart):
    logits = np.random.default_rng(0).standard_normal((CHARTS[chart].logits(4, 2), 3, 2)).astype(np.float32)
    keys = {"eps": 1e-8} if chart == "quaternion" else {}
    expected = theirs.mixing_matrix(torch.from_numpy(logits), 4, chart, **keys).numpy()
    found = mixing_matrix(mx.array(logits), 4, chart, **keys)
    assert found.shape == (4, 4, 3, 2)
    np.testing.assert_allclose(np.array(found), expected, rtol=1e-5, atol=1e-6)


def test_constraints_are_pytorchs():
    logits = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    ours, other = mx.array(logits), torch.from_numpy(logits)
    for found, expected in (
        (simplex(ours, 0.5), theirs.simplex(other, 0.5)),
        (identity_preserving(ours, 0.2), theirs.identity_preserving(other, 0.2)),
        (doubly_stochastic(ours[:3], iterations=50), theirs.doubly_stochastic(other[:3], iterations=50)),
    ):
        np.testing.assert_allclose(np.array(found), expected.numpy(), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="needs 16 logits"):
        mixing_matrix(mx.zeros(9), 4)


def test_every_name_of_the_library_is_one_of_the_backend():
    assert frozenset(library.__all__) == LIBRARY
    assert all(getattr(backend, name) is getattr(library, name) for name in LIBRARY)
    with pytest.raises(AttributeError, match="no attribute 'HyperConection'"):
        _ = backend.HyperConection
    assert isinstance(HyperConnection(nn.Identity(), WIDTH).connection, StreamConnection)


@pytest.mark.parametrize("module", ["streams", "library.hyper"])
def test_any_module_of_the_backend_may_be_the_first(module):
    script = f"import sys, mhc_exp.mlx.{module}; sys.exit('mhc_exp.mlx.library' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert said.returncode == int(module.startswith("library")), said.stderr
