"""Models of transformers that have connections of their own, small and randomly initialised: `make library`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mhc_exp.config import named
from mhc_exp.inspection.published import _biases, _config
from mhc_exp.topology.interventions import Intervention, Window
from mhc_exp.topology.reference.streams import coefficients
from mhc_exp.torch.published import tensors
from mhc_exp.torch.published.model import CannotOpen, PublishedModel, encode

pytestmark = [pytest.mark.library, pytest.mark.filterwarnings("ignore")]
LAYERS, WIDTH, VOCABULARY = 3, 32, 61
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": WIDTH,
    "moe_intermediate_size": 16,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "v_head_dim": 16}
INDEX = {"index_topk": 32, "index_head_dim": 16, "index_n_heads": 2, "n_routed_experts": 4}
SPARSE = {"mlp_layer_types": ["dense", *["sparse"] * (LAYERS - 1)]}
SIGHT = {"depth": 1, "hidden_size": WIDTH, "num_heads": 2, "intermediate_size": WIDTH, "out_hidden_size": WIDTH}
MODELS: dict[str, dict[str, Any]] = {
    "deepseek_v4": {
        **INDEX,
        "num_key_value_heads": 1,
        "q_lora_rank": 16,
        "o_groups": 2,
        "o_lora_rank": 8,
        "num_nextn_predict_layers": 0,
        "partial_rotary_factor": 0.5,
        "layer_types": ["heavily_compressed_attention", "sliding_attention", "compressed_sparse_attention"],
        "mlp_layer_types": ["moe"] * LAYERS,
    },
    "hy_v4": {
        **LATENT,
        **INDEX,
        **SPARSE,
        "qk_rope_head_dim": 8,
        "layer_types": ["indexed_attention"] * LAYERS,
        "indexer_types": ["full", "shared", "full"],
    },
    "qwen4_exp_text": {
        "num_experts": 4,
        "shared_expert_intermediate_size": 16,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "hc_lowrank": 4,
        "ple_layer_ids": [],
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 32,
        "indexer_compress_ratio": 4,
    },
    "glm5_next": {
        **LATENT,
        **INDEX,
        **SPARSE,
        "qk_rope_head_dim": 0,
        "linear_head_dim": 8,
        "linear_num_heads": 2,
    },
}
CONSTRAINED = ("deepseek_v4", "glm5_next")
TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, (2, 16))


def saved(kind: str, directory: Path) -> Path:
    """A checkpoint whose connections are far from their start."""
    transformers = importlib.import_module("transformers")
    torch.manual_seed(0)
    with torch.random.fork_rng():
        own = transformers.AutoConfig.for_model(kind).get_text_config()
        keys = {name: value for name, value in {**COMMON, **MODELS[kind]}.items() if hasattr(own, name)}
        if kind == "glm5_next":
            config = transformers.AutoConfig.for_model(kind, text_config=keys, vision_config=SIGHT)
            network = transformers.AutoModelForImageTextToText.from_config(config)
        else:
            config = transformers.AutoConfig.for_model(kind, **keys)
            network = transformers.AutoModelForCausalLM.from_config(config)
    for name, parameter in network.named_parameters():
        if "_hc." in name or "hc_head" in name or "hyper_connection" in name:
            torch.nn.init.normal_(parameter, std=0.3)
        if "embed_tokens" in name:
            torch.nn.init.normal_(parameter)
    network.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module", params=MODELS)
def checkpoint(request, tmp_path_factory) -> tuple[str, Path]:
    return request.param, saved(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def opened(checkpoint) -> tuple[str, PublishedModel]:
    kind, directory = checkpoint
    return kind, PublishedModel(directory, "cpu")


def test_connections_are_found_in_order(opened):
    _, model = opened
    assert model.wrapped == [f"{part} {layer}" for layer in range(LAYERS) for part in ("attention", "mlp")]


def test_what_is_seen_is_what_the_model_computes(opened):
    """H_res and H_post are what the layers are given; H_pre is checked against the sublayer's input at every call."""
    kind, model = opened
    given: list[torch.Tensor] = []
    returned: list[Any] = []

    def keep(_: torch.nn.Module, inputs: tuple[torch.Tensor], output: Any) -> None:
        given.append(inputs[0])
        returned.append(output)

    handles = [module.register_forward_hook(keep) for _, module in model.connections]
    found = model.diagnose(TOKENS)
    for handle in handles:
        handle.remove()
    assert found.read.shape == found.write.shape == (2 * LAYERS, TOKENS.size, 4)
    for index, output in enumerate(returned):
        post = output[2] if kind == "qwen4_exp_text" else output[0]
        np.testing.assert_allclose(found.write[index], post.flatten(0, 1).numpy(), rtol=1e-6)
        if kind in CONSTRAINED:
            mix = output[1].flatten(0, 1).transpose(1, 2).numpy()
            np.testing.assert_allclose(found.mix[index], mix, rtol=1e-6)
            assert np.abs(mix - mix.swapaxes(1, 2)).max() > 1e-2, "symmetric matrices would not show a wrong transpose"
    after = given[1].flatten(0, 1).reshape(TOKENS.size, 4, WIDTH).numpy()
    cosine = np.einsum("nic,njc->nij", after, after)
    lengths = np.sqrt(np.einsum("nii->ni", cosine))
    theirs = found.gram[0] / np.sqrt(np.einsum("nii->ni", found.gram[0]))[:, :, None]
    theirs = theirs / np.sqrt(np.einsum("nii->ni", found.gram[0]))[:, None]
    np.testing.assert_allclose(theirs, cosine / lengths[:, :, None] / lengths[:, None], atol=1e-5)


@pytest.mark.parametrize("kind", CONSTRAINED)
def test_the_numbers_are_those_of_our_specification(kind, tmp_path):
    """The first connection sees copies of the embedding, so that its coefficients can be computed without the model."""
    model = PublishedModel(saved(kind, tmp_path), "cpu")
    embedding = model.network.get_input_embeddings()(torch.from_numpy(TOKENS)).numpy().astype(np.float64)
    streams = np.repeat(embedding[:, :, None], 4, axis=2)
    variant = named.streams("deepseek_v4")
    read, write, mix = coefficients(streams, next(iter(tensors.read(tmp_path).values())), variant)
    found = model.diagnose(TOKENS)
    np.testing.assert_allclose(found.read[0], read.reshape(-1, 4), atol=1e-4)
    np.testing.assert_allclose(found.write[0], write.reshape(-1, 4), atol=1e-4)
    np.testing.assert_allclose(found.mix[0], mix.reshape(-1, 4, 4), atol=1e-3)  # theirs in float32


def test_the_weights_alone_say_what_the_modules_say_of_zero(checkpoint):
    kind, directory = checkpoint
    if kind not in CONSTRAINED:
        pytest.skip("its connections say nothing without an input")
    found = _biases(_config(directory), tensors.read(directory))
    model = PublishedModel(directory, "cpu")
    for index, (_, module) in enumerate(model.connections):
        post, comb, _ = module(torch.zeros(1, 1, 4, WIDTH))
        np.testing.assert_allclose(found.write[index, 0], post.detach()[0, 0].numpy(), rtol=1e-5)
        np.testing.assert_allclose(found.mix[index, 0], comb.detach()[0, 0].T.numpy(), atol=1e-5)


def test_a_change_is_what_changing_the_code_would_do(opened, monkeypatch):
    kind, model = opened
    before = model.losses(TOKENS, None)
    window = Window(2, 4)
    changed = {
        name: model.losses(TOKENS, Intervention(name, window, stream=1)) for name in ("identity", "uniform", "ablate")
    }
    assert np.array_equal(model.losses(TOKENS, None), before), "hooks are gone"
    if kind in CONSTRAINED:
        for _, module in model.connections[2:4]:
            forward = module.forward

            def identity(streams, forward=forward):
                post, comb, collapsed = forward(streams)
                return post, torch.eye(4).expand_as(comb), collapsed

            monkeypatch.setattr(module, "forward", identity)
        np.testing.assert_allclose(changed["identity"], model.losses(TOKENS, None), rtol=1e-6)
        assert np.abs(changed["identity"] - before).max() > 1e-5
        assert np.abs(changed["uniform"] - changed["identity"]).max() > 1e-5
    else:
        np.testing.assert_allclose(changed["identity"], before, rtol=1e-6)
    assert np.abs(changed["ablate"] - before).max() > 1e-6


def test_other_code_behind_a_known_name_is_refused(checkpoint, monkeypatch):
    _, directory = checkpoint
    model = PublishedModel(directory, "cpu")
    module = model.connections[3][1]
    forward = module.forward

    def doubled(streams):
        return tuple(2 * part for part in forward(streams))

    monkeypatch.setattr(module, "forward", doubled)
    with pytest.raises(CannotOpen, match=r"reads something else than its parameters say \(relative difference"):
        model.diagnose(TOKENS)


def test_a_model_without_connections_is_refused(tmp_path):
    transformers = importlib.import_module("transformers")
    config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=VOCABULARY)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(CannotOpen, match="GPT2LMHeadModel has no connections that are known here"):
        PublishedModel(tmp_path, "cpu")
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CannotOpen, match="cannot open"):
        PublishedModel(tmp_path, "cpu")
    with pytest.raises(CannotOpen, match="type --bytes"):
        encode(tmp_path, "text", as_bytes=False)


def test_the_command_runs_a_model_and_says_what_mixing_is_worth(checkpoint, tmp_path, capsys):
    from mhc_exp.inspection.inspect import main

    kind, directory = checkpoint
    (tmp_path / "text.txt").write_bytes(bytes(TOKENS.astype(np.uint8).ravel()) * 3)
    out = tmp_path / "pictures"
    words = [str(directory), "--text", str(tmp_path / "text.txt"), "--bytes", "--length", "24", "--sequences", "2"]
    assert main([*words, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "48 tokens of the text, 6 connections, 4 streams" in text
    mixing = {"mixing.png", "mixing_over_depth.png", "learning.png"} if kind in CONSTRAINED else set()
    assert {path.name for path in out.iterdir()} == {"streams.png", "streams_over_depth.png"} | mixing
    assert ("H_res is the identity by construction" in text) == (kind not in CONSTRAINED)
    assert ("identity  4:6" in text) == (kind in CONSTRAINED)
