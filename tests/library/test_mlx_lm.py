"""Streams in models of mlx_lm, small and randomly initialised: `make library`."""

from __future__ import annotations

import ast
import copy
import importlib
import importlib.util
import re
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn, optimizers
from twins import flat

from mhc_exp.mlx import (
    CannotInject,
    connection_filter,
    connection_parameters,
    connections,
    eject,
    inject,
    is_injected,
    preserves,
)
from mhc_exp.mlx.library.adapters import LLAMA_STYLE

pytestmark = [pytest.mark.library, pytest.mark.filterwarnings("ignore")]
VOCABULARY = 61
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": VOCABULARY}
LLAMA = {**SIZES, "intermediate_size": 48, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_theta": 1e4}
MIXED = {"layer_types": ["full_attention", "sliding_attention", "full_attention"], "sliding_window": 4}
MODELS = {
    "llama": LLAMA,
    "llama with windows": {**LLAMA, **MIXED},
    "qwen2": {**LLAMA, "tie_word_embeddings": True},
    "qwen3": {**LLAMA, "tie_word_embeddings": False, "head_dim": 8, "max_position_embeddings": 64},
    "gemma": {**LLAMA, "head_dim": 8},
    "mixtral": {**LLAMA, "num_local_experts": 2, "num_experts_per_tok": 1},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "n_ctx": 64, "layer_norm_epsilon": 1e-5},
    "gpt_neox": {**LLAMA, "layer_norm_eps": 1e-5, "rotary_emb_base": 10000, "rotary_pct": 0.25},
}


def built(name: str, **other) -> nn.Module:
    kind = name.split()[0]
    package = importlib.import_module(f"mlx_lm.models.{kind}")
    config = {"model_type": kind, "vocab_size": VOCABULARY, "max_position_embeddings": 64, **MODELS[name], **other}
    if kind == "gpt_neox":
        config = {"use_parallel_residual": False, **config}
    mx.random.seed(0)
    return package.Model(package.ModelArgs.from_dict(config))


@pytest.fixture
def model(request) -> nn.Module:
    return built(request.param)


every = pytest.mark.parametrize("model", MODELS, indirect=True)
llama = pytest.mark.parametrize("model", ["llama"], indirect=True)
TOKENS = mx.array(np.random.default_rng(0).integers(VOCABULARY, size=(2, 9)))


def stirred(model: nn.Module) -> nn.Module:
    random = np.random.default_rng(1)
    values = {n: np.array(v) + 0.3 * random.standard_normal(v.shape) for n, v in connection_parameters(model).items()}
    return model.load_weights([(n, mx.array(v.astype(np.float32))) for n, v in values.items()], strict=False)


def close(one: mx.array, two: mx.array, tolerance: float = 1e-5) -> bool:
    return bool(mx.allclose(one, two, rtol=tolerance, atol=tolerance * max(1.0, mx.abs(two).max().item())))


def gradients(model: nn.Module) -> dict[str, np.ndarray]:
    return flat(nn.value_and_grad(model, loss)(model, TOKENS)[1])


def loss(model: nn.Module, tokens: mx.array) -> mx.array:
    return nn.losses.cross_entropy(model(tokens[:, :-1]), tokens[:, 1:], reduction="mean")


def greedy(model: nn.Module, prompt: mx.array, count: int) -> list[int]:
    """Without a cache."""
    tokens = prompt
    for _ in range(count):
        tokens = mx.concatenate([tokens, model(tokens[None])[0, -1:].argmax(-1).astype(tokens.dtype)])
    return tokens[len(prompt) :].tolist()  # type: ignore[return-value]


def generated(model: nn.Module, prompt: mx.array, count: int, **keys) -> list[int]:
    """By mlx_lm's own loop, which fills a cache with the prompt first."""
    step = importlib.import_module("mlx_lm.generate").generate_step
    return [int(token) for token, _ in step(prompt, model, max_tokens=count, **keys)]


@every
def test_the_function_is_the_same_at_step_0_and_not_afterwards(model):
    before = model(TOKENS)
    assert inject(model, example=TOKENS) is model
    assert preserves(model)
    assert len(connections(model)) == 6
    assert close(model(TOKENS), before)
    assert not close(stirred(model)(TOKENS), before, 1e-3)


@llama
@pytest.mark.parametrize("variant", ["hc", "identity_hc", "mhc_lite", "kromhc"])
def test_other_variants_too(model, variant):
    before = model(TOKENS)
    assert preserves(inject(model, variant))
    assert close(model(TOKENS), before)


@every
def test_ejecting_gives_the_model_back(model):
    before, names = model(TOKENS), list(flat(model.parameters()))
    kinds = [type(part) for part in model.modules()]
    stirred(inject(model))
    assert set(names) < set(flat(model.parameters()))
    eject(model)
    assert not is_injected(model)
    assert list(flat(model.parameters())) == names
    assert [type(part) for part in model.modules()] == kinds
    assert mx.array_equal(model(TOKENS), before)


@every
def test_generation_with_a_cache_is_that_without(model):
    prompt = TOKENS[0]
    before = generated(model, prompt, 6)
    inject(model)
    assert generated(model, prompt, 6) == before
    stirred(model)
    assert generated(model, prompt, 6) == greedy(model, prompt, 6)
    assert generated(model, prompt, 6, prefill_step_size=4) == greedy(model, prompt, 6)


@llama
def test_a_kept_cache_goes_on(model):
    """Two parts of a text through one cache are the text at once."""
    cache = importlib.import_module("mlx_lm.models.cache").make_prompt_cache(stirred(inject(model)))
    parts = [model(TOKENS[:, :5], cache=cache), model(TOKENS[:, 5:], cache=cache)]
    assert close(mx.concatenate(parts, 1), model(TOKENS))


@every
def test_tokens_do_not_see_those_after_them(model):
    stirred(inject(model))
    other = mx.concatenate([TOKENS[:, :6], (TOKENS[:, 6:] + 7) % VOCABULARY], 1)
    assert close(model(other)[:, :6], model(TOKENS)[:, :6])
    assert not close(model(other)[:, 6:], model(TOKENS)[:, 6:], 1e-3)


def trained(model: nn.Module, steps: int) -> list[float]:
    rates = [optimizers.AdamW(1e-2, weight_decay=0.0), optimizers.AdamW(1e-3, weight_decay=0.1)]
    optimizer = optimizers.MultiOptimizer(rates, [connection_filter(model)])
    step, losses = nn.value_and_grad(model, loss), []
    for _ in range(steps):
        value, found = step(model, TOKENS)
        optimizer.update(model, found)
        mx.eval(model.parameters(), optimizer.state)
        losses.append(value.item())
    return losses


@every
def test_twenty_steps_lower_the_loss(model):
    losses = trained(inject(model), 20)
    assert losses[-1] < 0.9 * losses[0]


@llama
def test_two_hundred_steps_lower_the_loss(model):
    start = flat(connection_parameters(inject(model)))
    losses = trained(model, 200)
    assert losses[-1] < 0.5 * losses[0]
    assert all(not np.array_equal(start[name], value) for name, value in flat(connection_parameters(model)).items())


@every
def test_saving_and_loading(model, request, tmp_path):
    stirred(inject(model)).save_weights(str(tmp_path / "model.safetensors"))
    twin = inject(built(request.node.callspec.params["model"]))
    twin.load_weights(str(tmp_path / "model.safetensors"))
    assert mx.array_equal(twin(TOKENS), model(TOKENS))
    plain = built(request.node.callspec.params["model"])  # the body alone: names of the body are what they were
    weights = mx.load(str(tmp_path / "model.safetensors"))
    plain.load_weights([(name, value) for name, value in weights.items() if "hyper_" not in name])
    assert mx.array_equal(plain(TOKENS), eject(model)(TOKENS))


@llama
def test_recomputed_blocks_have_the_same_gradients_bit_for_bit(model, monkeypatch):
    """mlx_lm recomputes by replacing the code of the class of a block."""
    expected = gradients(stirred(inject(model)))
    block = model.layers[0]
    monkeypatch.setattr(type(block), "__call__", type(block).__call__)  # put back afterwards
    importlib.import_module("mlx_lm.tuner.trainer").grad_checkpoint(block)
    found = gradients(model)
    assert np.abs(found["model.layers.0.hyper_connections.0.bias"]).max() > 1e-6
    assert all(np.array_equal(found[name], value) for name, value in expected.items())


@llama
def test_recomputation_before_injection_is_refused(model, monkeypatch):
    block = model.layers[0]
    monkeypatch.setattr(type(block), "__call__", type(block).__call__)
    importlib.import_module("mlx_lm.tuner.trainer").grad_checkpoint(block)
    with pytest.raises(CannotInject, match="replaced by grad_checkpoint"):
        inject(model)


@pytest.mark.parametrize("first", [True, False])
def test_quantized_bodies(first):
    """Connections are no layers that quantization takes, before or after; their numbers are what they were."""
    model, twin = (built("llama", intermediate_size=64) for _ in range(2))
    nn.quantize(twin, group_size=32, bits=8)
    expected = twin(TOKENS)
    if first:
        nn.quantize(model, group_size=32, bits=8)
    inject(model)
    if not first:
        nn.quantize(model, group_size=32, bits=8)
    assert close(model(TOKENS), expected)
    assert {value.dtype for value in connection_parameters(model).values()} == {mx.float32}


@llama
def test_adapters_of_low_rank_train_beside_connections(model):
    inject(model)
    convert = importlib.import_module("mlx_lm.tuner.utils").linear_to_lora_layers
    model.freeze()
    convert(model, 2, {"rank": 2, "scale": 1.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]})
    for one in connections(model):
        one.unfreeze()
    own = flat(model.trainable_parameters())
    assert own.keys() > connection_parameters(model).keys()
    assert sum("lora" in name for name in own) == 4
    assert gradients(model).keys() == own.keys()


@llama
def test_half_precision(model):
    model.set_dtype(mx.bfloat16)
    before = model(TOKENS)
    inject(model, example=TOKENS)
    assert model(TOKENS).dtype == mx.bfloat16
    assert {value.dtype for value in connection_parameters(model).values()} == {mx.float32}
    assert close(model(TOKENS).astype(mx.float32), before.astype(mx.float32), 0.05)


@llama
def test_a_copy_is_a_model_of_its_own(model):
    stirred(inject(model))
    found, twin = model(TOKENS), copy.deepcopy(model)
    eject(model)
    assert mx.array_equal(twin(TOKENS), found)


def test_blocks_with_branches_side_by_side_are_refused():
    with pytest.raises(CannotInject, match="build it with use_parallel_residual=False"):
        inject(built("gpt_neox", use_parallel_residual=True))


@pytest.mark.parametrize("kind", ["cohere", "olmo2"])
def test_blocks_of_the_same_name_but_other_code_are_refused(kind):
    package = importlib.import_module(f"mlx_lm.models.{kind}")
    config = {"model_type": kind, **LLAMA, "max_position_embeddings": 64, "layer_norm_eps": 1e-5, "logit_scale": 1.0}
    model = package.Model(package.ModelArgs.from_dict(config))
    assert type(model.layers[0]).__name__ == "TransformerBlock"
    with pytest.raises(CannotInject, match=f"lists of modules hold mlx_lm.models.{kind}.TransformerBlock"):
        inject(model)


def lines(name: str) -> list[str]:
    """What a block does, with its result under one name."""
    module, _, kind = name.rpartition(".")
    origin = importlib.util.find_spec(module).origin
    tree = ast.parse(Path(origin).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind)
    call = next(node for node in block.body if isinstance(node, ast.FunctionDef) and node.name == "__call__")
    code = "\n".join(ast.unparse(node) for node in call.body)
    return code.replace("out = h + r\nreturn out", "return h + r").splitlines()


def test_every_block_that_is_called_llama_style_is():
    expected = lines("mlx_lm.models.llama.TransformerBlock")
    assert len(expected) == 4
    assert [name for name in LLAMA_STYLE if lines(name) != expected] == []


def test_the_code_of_the_page_runs():
    page = (Path(__file__).parents[2] / "docs" / "library.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python needs=mlx_lm\n(.*?)```", page, re.S)
    assert blocks
    exec(compile("\n".join(blocks), "library.md", "exec"), {})
