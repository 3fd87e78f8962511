"""The Keras layers are the laboratory's connections, on whichever backend KERAS_BACKEND names: `make library`."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")

from mhc_exp.config import named  # noqa: E402
from mhc_exp.config.build import ConfigError  # noqa: E402
from mhc_exp.keras import (  # noqa: E402
    ExpandStreams,
    HistoryConnection,
    HyperConnection,
    HyperSequential,
    ReduceStreams,
    charts,
    expand_streams,
    reduce_streams,
)
from mhc_exp.topology import reference  # noqa: E402
from mhc_exp.topology.charts import CHARTS  # noqa: E402
from mhc_exp.topology.reference.history import mixing  # noqa: E402
from mhc_exp.topology.streams import values  # noqa: E402
from mhc_exp.torch import charts as torch_charts  # noqa: E402
from mhc_exp.torch.library import HistoryConnection as TorchHistory  # noqa: E402
from mhc_exp.torch.streams import HyperStreams  # noqa: E402

pytestmark = [pytest.mark.library, pytest.mark.filterwarnings("ignore")]
WIDTH = 6
WIRINGS = {
    "hc": {},
    "mhc": {},
    "mhc_lite": {"streams": 3},
    "kromhc": {},
    "go_mhc": {},
    "ohc": {},
    "tbp_mhc": {},
    "c_mhc": {},
    "identity_hc": {},
    "deepseek_v4": {},
    "mhc_lss": {"expand": "learned_scale"},
    "mhc, static": {"coefficients": "static"},
    "mhc, newton": {"mix.solver": "newton"},
    "mhc, columns last": {"mix.order": "columns_last", "mix.iterations": 3},
    "mhc, per-stream norm": {"norm": "layer", "squash": "tanh"},
    "hc, two streams": {"streams": 2, "mix.apply": "plain"},
    "demo_mhc": {"site": "sublayer"},
}
"""A variant (and what follows a comma, to tell cases apart) with keys that differ."""
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(2, 3, WIDTH))
BRANCHES = [(0.4 * RANDOM.normal(size=(WIDTH, WIDTH)), 0.1 * RANDOM.normal(size=WIDTH)) for _ in range(4)]


def branch(index: int = 0, width: int = WIDTH) -> Any:
    """tanh(x W + b)."""
    layer = keras.layers.Dense(width, activation="tanh")
    if width == WIDTH:
        layer.build((None, WIDTH))
        layer.set_weights(BRANCHES[index])
    return layer


def in_numpy(tensor: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(tensor)


def gradients(layer: Any, x: np.ndarray) -> tuple[np.ndarray, dict[int, np.ndarray], np.ndarray]:
    """The output, and gradients of the sum of its squares by id of a weight, and of x."""
    x = keras.ops.convert_to_tensor(x, "float32")
    layer(x)
    weights = layer.trainable_variables
    if keras.backend.backend() == "torch":
        x.requires_grad_()
        output = layer(x)
        output.square().sum().backward()
        found, of_x = [one.value.grad for one in weights], x.grad
        found = [torch.zeros_like(one.value) if g is None else g for one, g in zip(weights, found, strict=True)]
    elif keras.backend.backend() == "jax":
        import jax

        def loss(own, x):
            output, _ = layer.stateless_call(own, [one.value for one in layer.non_trainable_variables], x)
            return (output**2).sum(), output

        own = [one.value for one in weights]
        (_, output), (found, of_x) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(own, x)
    else:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(x)
            output = layer(x)
            total = tf.reduce_sum(output**2)
        *found, of_x = tape.gradient(
            total, [*(one.value for one in weights), x], unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
    by_weight = {id(one): in_numpy(keras.ops.convert_to_tensor(g)) for one, g in zip(weights, found, strict=True)}
    return in_numpy(output), by_weight, in_numpy(of_x)


def close(found: np.ndarray, exact: np.ndarray, total: float, name: str = "") -> None:
    """Within 1e-5 of its own size, and what float32 leaves of numbers as large as all gradients together."""
    assert found.shape == exact.shape, name
    assert np.abs(found - exact).max() <= 1e-5 * np.linalg.norm(exact) + 1e-6 * total, name


def stirred(start: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Off every symmetry and every zero, so that each term of each equation counts."""
    random = np.random.default_rng(1)
    return {name: (value + random.uniform(-0.3, 0.3, value.shape)).astype(np.float32) for name, value in start.items()}


def numpy_branch(index: int):
    weight, bias = (np.float32(part).astype(np.float64) for part in BRANCHES[index])
    return lambda x: np.tanh(x @ weight + bias)


def torch_branch(index: int) -> torch.nn.Sequential:
    linear = torch.nn.Linear(WIDTH, WIDTH).double()
    weight, bias = (torch.from_numpy(np.float32(part)) for part in BRANCHES[index])
    linear.load_state_dict({"weight": weight.T, "bias": bias})
    return torch.nn.Sequential(linear, torch.nn.Tanh())


def parts_of(stack: Any) -> dict[str, Any]:
    """Layers of a HyperSequential by the laboratory's prefix."""
    return {f"connections.{index}.": one for index, one in enumerate(stack.connections)} | {
        "expand.": stack.expand,
        "readout.": stack.reduce,
    }


@pytest.mark.parametrize("case", WIRINGS)
def test_a_stack_is_the_laboratorys_wiring(case):
    """Output of the numpy reference, gradients of the PyTorch backend in float64, from the same weights."""
    spec = named.streams(case.partition(",")[0], WIRINGS[case])
    start = {name.removeprefix("topology."): value for name, value in values(spec, WIDTH, 1, 0).items()}
    stack = HyperSequential([branch(0), branch(1)], variant=spec)
    stack.build(X.shape)
    weights = {
        prefix + name: one
        for prefix, layer in parts_of(stack).items()
        for name, one in zip(layer.value_names, layer.connection_weights, strict=True)
    }
    assert weights.keys() == start.keys()
    for name, value in start.items():
        np.testing.assert_array_equal(in_numpy(weights[name]), value, name)
    moved = stirred(start)
    for name, value in moved.items():
        weights[name].assign(value)
    output, by_weight, of_x = gradients(stack, X)

    theirs = {f"topology.{name}": value.astype(np.float64) for name, value in moved.items()}
    sublayers = [numpy_branch(0), numpy_branch(1)]
    exact = reference.forward(np.float32(X).astype(np.float64), sublayers, theirs, spec)
    np.testing.assert_allclose(output, exact, rtol=1e-5, atol=1e-5 * np.abs(exact).max())
    wiring, branches = HyperStreams(spec, WIDTH, 1).double(), [torch_branch(0), torch_branch(1)]
    wiring.load_state_dict({name: torch.from_numpy(value) for name, value in moved.items()})
    x = torch.from_numpy(np.float32(X)).double().requires_grad_()
    wiring(x, branches).square().sum().backward()
    pairs = [(by_weight[id(weights[name])], parameter.grad, name) for name, parameter in wiring.named_parameters()]
    for connection, module in zip(stack.connections, branches, strict=True):
        kernel, bias = (by_weight[id(one)] for one in connection.branch.trainable_variables)
        pairs += [(kernel.T, module[0].weight.grad, "kernel"), (bias, module[0].bias.grad, "bias")]
    pairs = [(one, torch.zeros(one.shape) if two is None else two, name) for one, two, name in pairs]
    total = float(sum(two.square().sum() for _, two, _ in pairs) ** 0.5)
    for found, expected, name in [*pairs, (of_x, x.grad, "x")]:
        close(found, expected.numpy(), total, name)


@pytest.mark.parametrize("constraint", ["simplex", "identity", "doubly_stochastic"])
def test_a_history_is_the_laboratorys_mixing(constraint):
    class Steps(keras.Model):
        def __init__(self, **keys):
            super().__init__()
            self.steps = [HistoryConnection(branch(k), k, 3, constraint, floor=0.2, **keys) for k in range(4)]

        def call(self, x):
            history = [x]
            for step in self.steps:
                history = step(history)
            return history[0]

    model = Steps()
    model(X)
    random = np.random.default_rng(2)
    logits = {k: one.logits + random.normal(size=one.logits.shape) for k, one in enumerate(model.steps) if k}
    logits = {k: np.float32(in_numpy(value)) for k, value in logits.items()}
    ours = [TorchHistory(torch_branch(k), k, 3, constraint, floor=0.2).double() for k in range(4)]  # type: ignore[arg-type]
    for k, value in logits.items():
        np.testing.assert_allclose(in_numpy(model.steps[k].logits), ours[k].mixing.logits.detach(), rtol=1e-6)
        model.steps[k].logits.assign(value)
        ours[k].mixing.logits.data.copy_(torch.from_numpy(value))
    output, by_weight, of_x = gradients(model, X)

    parameters = {f"connections.{k}.logits": value.astype(np.float64) for k, value in logits.items()}
    spec = ours[0].mixing.variant
    exact = mixing.forward(np.float32(X).astype(np.float64), [numpy_branch(k) for k in range(4)], parameters, spec)
    np.testing.assert_allclose(output, exact, rtol=1e-5, atol=1e-5)
    x = torch.from_numpy(np.float32(X)).double().requires_grad_()
    history = [x]
    for step in ours:
        history = step(history)
    history[0].square().sum().backward()
    total = float(x.grad.norm())
    close(of_x, x.grad.numpy(), total, "x")
    for step, module in zip(model.steps, ours, strict=True):
        kernel, _ = (by_weight[id(one)] for one in step.branch.trainable_variables)
        close(kernel.T, module.branch[0].weight.grad.numpy(), total, "kernel")
        if step.logits is not None:
            close(by_weight[id(step.logits)], module.mixing.logits.grad.numpy(), total, "logits")


CONVENTIONS = {
    "deepseek": {"order": "columns_last", "start": "softmax", "eps": 1e-6},
    "demo": {"order": "columns_last", "start": "exp", "eps": 1e-6},
    "logs": {"start": "softmax"},
}


@pytest.mark.parametrize("streams", [2, 4])
@pytest.mark.parametrize("case", [*charts.CHARTS, *CONVENTIONS])
def test_a_chart_is_the_reference(case, streams):
    chart = "sinkhorn" if case in CONVENTIONS else case
    spec = dataclasses.replace(named.streams("mhc").mix, chart=chart, expansion=2)
    spec = dataclasses.replace(spec, **CONVENTIONS.get(case, {}))
    if not CHARTS[chart].legal(streams, 2):
        streams = 4
    logits = np.random.default_rng(3).normal(size=(CHARTS[chart].logits(streams, 2), 5)).astype(np.float32)
    found = in_numpy(charts.chart(keras.ops.convert_to_tensor(logits), streams, spec))
    expected = np.moveaxis(reference.chart(logits.T.astype(np.float64), streams, spec), 0, -1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_every_chart_is_there():
    assert charts.CHARTS.keys() == torch_charts.CHARTS.keys()


def network(**keys: Any) -> Any:
    """Streams, then mixing of the last states, in the functional API."""
    inputs = keras.Input((None, WIDTH))
    x = ExpandStreams(3)(inputs)
    for index in range(2):
        block = keras.Sequential([keras.layers.LayerNormalization(), keras.layers.Dense(WIDTH, activation="tanh")])
        x = HyperConnection(block, 3, layer_index=index, **keys)(x)
    assert x.shape == (None, None, 3, WIDTH)
    history = [ReduceStreams(3)(x)]
    for index in range(3):
        history = HistoryConnection(keras.layers.Dense(WIDTH + index // 2), index, gate=True)(history)
    assert [state.shape[-1] for state in history] == [WIDTH + 1, WIDTH, WIDTH, WIDTH]
    return keras.Model(inputs, keras.layers.Dense(1)(history[0]))


def test_a_model_trains_and_comes_back_from_its_file(tmp_path):
    keras.utils.set_random_seed(0)
    model = network(mix={"iterations": 3}, options={"mix.order": "columns_last"})
    model.compile(keras.optimizers.Adam(0.01), "mse")
    x = np.random.default_rng(4).normal(size=(16, 5, WIDTH)).astype(np.float32)
    losses = model.fit(x, x[..., :1], epochs=8, batch_size=8, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(in_numpy(again(x)), in_numpy(model(x)))
    one, two = ([layer for layer in m.layers if isinstance(layer, HyperConnection)] for m in (model, again))
    assert [layer.variant for layer in one] == [layer.variant for layer in two]
    assert two[1].variant.mix.iterations == 3
    assert two[1].layer_index == 1


@pytest.mark.parametrize(
    "layer",
    [
        lambda: HyperConnection(branch(), 3, "c_mhc", 2, 5, seed=4, name="mine", dtype="mixed_bfloat16"),
        lambda: HyperSequential([branch(), branch(1)], variant="deepseek_v4", alpha=0.5),
        lambda: HistoryConnection(branch(), 2, 3, "identity", newest=0.7, floor=0.3, temperature=2.0, gate=True),
        lambda: ExpandStreams(2, "mhc_lss"),
        lambda: ReduceStreams(variant="deepseek_v4"),
    ],
)
def test_a_configuration_makes_the_same_layer(layer):
    layer = layer()
    config = keras.saving.serialize_keras_object(layer)
    again = keras.saving.deserialize_keras_object(config)
    assert keras.saving.serialize_keras_object(again) == config
    assert (again.variant, again.name) == (layer.variant, layer.name)
    assert again.dtype_policy == layer.dtype_policy


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_coefficients_stay_float32_in_a_half_precision_model(policy):
    stack = HyperSequential([branch(), branch(1)], dtype=policy)
    history = HistoryConnection(branch(2), 1, dtype=policy)
    x = keras.ops.convert_to_tensor(X, stack.compute_dtype)
    assert keras.backend.standardize_dtype(stack(x).dtype) == stack.compute_dtype
    assert [keras.backend.standardize_dtype(one.dtype) for one in history([x, x])] == 3 * [stack.compute_dtype]
    own = [one for layer in parts_of(stack).values() for one in layer.connection_weights] + [history.logits]
    assert {one.dtype for one in own} == {"float32"}
    mix = in_numpy(stack.connections[0].coefficients(keras.ops.reshape(expand_streams(x), (-1, 4, WIDTH))).mix)
    assert mix.dtype == np.float32
    assert np.abs(mix.sum(1) - 1).max() < 1e-6


@keras.saving.register_keras_serializable(package="test_keras")
class Attention(keras.layers.Layer):
    """A branch with arguments, a mask and a second output, whose weights its first call makes."""

    def __init__(self, **keys):
        super().__init__(**keys)
        self.inner = keras.layers.Dense(WIDTH)

    def call(self, x, other, scale=1.0, mask=None):
        seen = x if mask is None else x * keras.ops.cast(mask, x.dtype)[..., None]
        return self.inner(seen) * scale + other, seen


def test_arguments_and_tuples_pass_through():
    connection = HyperConnection(Attention())
    streams, other = expand_streams(keras.ops.convert_to_tensor(X, "float32")), np.ones((2, 3, WIDTH), np.float32)
    new, seen = connection(streams, other, scale=0.0)
    assert (new.shape, seen.shape) == ((2, 3, 4, WIDTH), (2, 3, WIDTH))
    read, write, mix = (in_numpy(part) for part in connection.coefficients(keras.ops.reshape(streams, (-1, 4, WIDTH))))
    flat = in_numpy(streams).reshape(-1, 4, WIDTH)
    np.testing.assert_allclose(in_numpy(seen).reshape(-1, WIDTH), np.einsum("sn,nsc->nc", read, flat), rtol=1e-5)
    expected = np.einsum("ijn,njc->nic", mix, flat) + write.T[..., None]  # F is one everywhere
    np.testing.assert_allclose(in_numpy(new).reshape(-1, 4, WIDTH), expected, rtol=1e-4, atol=1e-5)
    symbolic = HyperConnection(Attention())(keras.Input((3, 4, WIDTH)), keras.Input((3, WIDTH)))
    assert [one.shape for one in symbolic] == [(None, 3, 4, WIDTH), (None, 3, WIDTH)]


def test_a_mask_reaches_the_branch_and_what_follows():
    inputs = keras.Input((3,), dtype="int32")
    x = ExpandStreams()(keras.layers.Embedding(5, WIDTH, mask_zero=True)(inputs))
    new, seen = HyperConnection(Attention())(x, keras.ops.zeros((1, 3, WIDTH)), mask=x._keras_mask)
    history = HistoryConnection(branch())([ReduceStreams()(new)])
    model = keras.Model(inputs, [seen, history[0]])
    seen, after = model(np.array([[2, 0, 1]]))
    assert [bool(np.abs(row).max() > 0) for row in in_numpy(seen)[0]] == [True, False, True]
    assert in_numpy(after._keras_mask).tolist() == [[True, False, True]]


def test_projections_meet_states_of_another_width():
    step = HistoryConnection(branch(0, 4), 1, 2)
    new, kept = step([np.ones((2, 4), np.float32), np.ones((2, WIDTH), np.float32)])
    assert (new.shape, kept.shape) == ((2, 4), (2, 4))
    assert [tuple(one.kernel.shape) for one in step.projections.values()] == [(WIDTH, 4)]
    assert len(step.trainable_variables) == 4
    with pytest.raises(ValueError, match="only the last axis may change"):
        HistoryConnection(keras.layers.Flatten())([np.ones((2, 3, WIDTH), np.float32)])
    with pytest.raises(ValueError, match="Type constraint='simplex'"):
        HistoryConnection(branch(0, 4), 1, 2, "doubly_stochastic")(2 * [np.ones((2, WIDTH), np.float32)])


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: HyperConnection(branch(), variant="mch"), ConfigError, "did you mean 'mhc'"),
        (lambda: HyperConnection(branch(), variant="c_mhc"), ConfigError, "type layers="),
        (lambda: HyperConnection(branch(), variant="deepseek_v41"), ConfigError, "read_from='current'"),
        (lambda: HyperConnection(branch(), variant="history"), ConfigError, "is no stream connection"),
        (lambda: HyperConnection(branch(), strems=3), ConfigError, "did you mean 'streams'"),
        (lambda: HyperConnection(np.tanh), TypeError, r"keras.layers.Lambda\(f\)"),
        (lambda: HyperConnection(branch())(X), ValueError, r"call expand_streams\(x, 4\) once"),
        (lambda: HyperConnection(branch(0, 7))(expand_streams(X)), ValueError, "keep the shape"),
        (lambda: HyperConnection(branch(0, 7))(keras.Input((3, 4, WIDTH))), ValueError, "keep the shape"),
        (lambda: reduce_streams(X, "max"), ValueError, "'sum' or 'mean'"),  # type: ignore[arg-type]
        (lambda: HistoryConnection(branch(), constraint="simplx"), ConfigError, "did you mean 'simplex'"),  # type: ignore[arg-type]
        (lambda: HistoryConnection(branch(), 2)([X]), ValueError, "a connection for 3 states got 1"),
        (lambda: HistoryConnection(branch())(X), ValueError, r"type \[x\]"),
    ],
)
def test_what_cannot_be_is_answered(make, error, said):
    with pytest.raises(error, match=said):
        make()


def test_the_keras_code_of_the_page_runs():
    page = (Path(__file__).parents[2] / "docs" / "library.md").read_text()
    blocks = re.findall(r"```python needs=keras\n(.*?)```", page, re.S)
    assert blocks
    exec(compile("\n".join(blocks), "library.md", "exec"), {})
