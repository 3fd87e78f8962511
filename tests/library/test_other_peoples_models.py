"""Streams in models of transformers and timm, small and randomly initialised: `make library`."""

from __future__ import annotations

import copy
import importlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mhc_exp.torch import (
    connection_parameters,
    connections,
    eject,
    inject,
    inject_mhc,
    parameter_groups,
    preserves,
)
from mhc_exp.torch.library.adapters import ADAPTERS

LLAMA_STYLE = next(one.blocks for one in ADAPTERS if "LlamaDecoderLayer" in one.blocks)
pytestmark = [pytest.mark.library, pytest.mark.filterwarnings("ignore")]
VOCABULARY = 61
TOKENS = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": VOCABULARY}
LLAMA = {**TOKENS, "intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 64}
SPECIAL = {"bos_token_id": 0, "eos_token_id": None, "pad_token_id": None}


def transformer(name: str, **config) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        package = importlib.import_module("transformers")
        config_class = getattr(package, f"{name.split('For')[0].split('LM')[0].removesuffix('Model')}Config")
        return getattr(package, name)(config_class(**config))

    return build


def timm(name: str, **keys) -> Callable[[], nn.Module]:
    return lambda: importlib.import_module("timm").create_model(name, num_classes=5, **keys)


GPT2 = {"n_embd": 32, "n_layer": 3, "n_head": 4, "vocab_size": VOCABULARY, "n_positions": 64}
VIT = {"num_labels": 5, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
LANGUAGE = {
    "gpt2": (transformer("GPT2LMHeadModel", **GPT2, **SPECIAL), 6),
    "llama": (transformer("LlamaForCausalLM", **LLAMA, **SPECIAL), 6),
    "qwen2": (transformer("Qwen2ForCausalLM", **LLAMA, **SPECIAL), 6),
    "qwen3": (transformer("Qwen3ForCausalLM", **LLAMA, head_dim=8, **SPECIAL), 6),
    "mistral": (transformer("MistralForCausalLM", **LLAMA, **SPECIAL), 6),
}
VISION = {
    "vit": (transformer("ViTForImageClassification", **VIT, image_size=16, patch_size=4), 6),
    "timm vit": (timm("vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=32, depth=3, num_heads=4), 6),
    "timm resnet18": (timm("resnet18", zero_init_last=False), 5),
    "timm resnet50": (timm("resnet50", zero_init_last=False), 12),
}
MODELS = {**LANGUAGE, **VISION}


@pytest.fixture
def made(request, operators_of_torchvision) -> tuple[nn.Module, Tensor, int]:
    torch.manual_seed(0)
    build, count = MODELS[request.param]
    model = build().eval()
    x = torch.randint(VOCABULARY, (2, 9)) if request.param in LANGUAGE else torch.randn(2, 3, 16, 16)
    return model, x, count


every = pytest.mark.parametrize("made", MODELS, indirect=True)
language = pytest.mark.parametrize("made", LANGUAGE, indirect=True)


def logits(model: nn.Module, x: Tensor, **keys) -> Tensor:
    output = model(x, **keys)
    return output if isinstance(output, Tensor) else output.logits


def stirred(model: nn.Module) -> nn.Module:
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in connection_parameters(model):
            parameter += 0.3 * torch.randn(parameter.shape, generator=random)
    return model


@every
@pytest.mark.parametrize("variant", ["mhc", "hc", "identity_hc"])
def test_the_function_is_the_same_at_step_0(made, variant):
    model, x, count = made
    before = logits(model, x)
    inject(model, variant)
    assert preserves(model)
    assert len(connections(model)) == count
    size = float(before.detach().abs().max())
    torch.testing.assert_close(logits(model, x), before, rtol=1e-5, atol=1e-5 * max(1.0, size))
    assert not torch.allclose(logits(stirred(model), x), before, rtol=1e-3, atol=1e-3 * size)


@every
def test_what_a_block_adds_to_itself_reaches_nothing(made):
    model, x, _ = made
    stirred(inject(model))
    before, zeros = logits(model, x), Tensor.new_zeros
    try:
        Tensor.new_zeros = lambda self, *size, **keys: zeros(self, *size, **keys) + float("nan")  # type: ignore[method-assign]
        after = logits(model, x)
    finally:
        Tensor.new_zeros = zeros  # type: ignore[method-assign]
    assert torch.equal(after, before)


@every
def test_ejecting_gives_the_model_back(made):
    model, x, _ = made
    names, before = list(model.state_dict()), logits(model, x)
    stirred(inject(model))
    assert set(names) < set(model.state_dict())
    eject(model)
    assert list(model.state_dict()) == names
    assert torch.equal(logits(model, x), before)


@every
def test_two_hundred_steps_lower_the_loss(made):
    model, x, _ = made
    inject(model)
    model.train()
    target = x if x.dtype is torch.long else torch.tensor([1, 3])
    optimizer = torch.optim.AdamW(parameter_groups(model, 1e-3, 0.1, connection_lr=1e-2))
    steps, losses = (200 if x.dtype is torch.long else 40), []
    for _ in range(steps):
        optimizer.zero_grad()
        scores = logits(model, x)
        error = nn.functional.cross_entropy(scores.flatten(0, -2), target.flatten())
        error.backward()
        optimizer.step()
        losses.append(float(error.detach()))
    assert losses[-1] < 0.5 * losses[0]


@language
def test_generation_with_and_without_a_cache(made):
    model, x, _ = made
    torch.manual_seed(0)
    settings = {"max_new_tokens": 12, "do_sample": False, "attention_mask": torch.ones_like(x), "pad_token_id": 0}
    before = model.generate(x, **settings)
    inject(model)
    assert torch.equal(model.generate(x, **settings), before)
    stirred(model)
    cached = model.generate(x, use_cache=True, **settings)
    assert cached.shape == (2, 21)
    assert torch.equal(model.generate(x, use_cache=False, **settings), cached)
    assert torch.equal(model.generate(x, num_beams=2, **settings)[:, :9], x)


@language
def test_a_padding_mask_reaches_attention(made):
    model, x, _ = made
    stirred(inject(model))
    mask = torch.ones_like(x)
    mask[:, -3:] = 0
    other = x.clone()
    other[:, -3:] = 5
    one, two = (logits(model, tokens, attention_mask=mask)[:, :6] for tokens in (x, other))
    torch.testing.assert_close(one, two)


@language
def test_gradient_checkpointing_changes_no_bit(made, monkeypatch):
    model, x, _ = made
    stirred(inject(model))
    model.train()
    calls = []
    block = connections(model)[0]
    read = type(block).read
    monkeypatch.setattr(type(block), "read", lambda self, streams: calls.append(self.index) or read(self, streams))
    found = []
    for enable in (False, True):
        if enable:
            model.gradient_checkpointing_enable()
        torch.manual_seed(3)
        loss = model(x, labels=x, use_cache=False).loss
        found.append(torch.autograd.grad(loss, list(model.parameters())))
    assert len(calls) == 3 * len(connections(model))
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


@language
def test_saving_and_loading(made, tmp_path):
    model, x, _ = made
    stirred(inject(model))
    model.save_pretrained(tmp_path)
    twin = type(model)(model.config).eval()
    missing, unexpected = inject(twin).load_state_dict(model.state_dict(), strict=True)
    assert not missing
    assert not unexpected
    assert torch.equal(logits(twin, x), logits(model, x))
    plain = type(model).from_pretrained(tmp_path).eval()  # the body alone: names of the body are what they were
    eject(model)
    torch.testing.assert_close(logits(plain, x), logits(model, x))


@every
def test_compiling_gives_the_same_numbers(made):
    model, x, _ = made
    stirred(inject(model, options={"mix.iterations": 2}))  # each iteration is traced
    expected = logits(model, x)
    compiled = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(logits(compiled, x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "build",
    [
        transformer("GPT2LMHeadModel", **GPT2 | {"n_layer": 1}, **SPECIAL),
        transformer("LlamaForCausalLM", **LLAMA | {"num_hidden_layers": 1}, **SPECIAL),
        transformer("ViTForImageClassification", **VIT | {"num_hidden_layers": 1}, image_size=16, patch_size=4),
    ],
    ids=["gpt2", "llama", "vit"],
)
def test_a_step_compiled_by_inductor_has_the_same_gradients(build, operators_of_torchvision):
    """Forward and backward pass, of one block: each iteration is compiled for each of its connections."""
    torch.manual_seed(0)
    model = build().eval()
    images = hasattr(model.config, "image_size")
    x = torch.randn(2, 3, 16, 16) if images else torch.randint(VOCABULARY, (2, 9))
    stirred(inject(model, options={"mix.iterations": 2}))
    found = []
    for arm in (model, torch.compile(model)):
        found.append(torch.autograd.grad(logits(arm, x).square().mean(), list(model.parameters()), allow_unused=True))
    assert sum(one is not None for one in found[0]) > len(connection_parameters(model))
    for one, two in zip(*found, strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)


@every
def test_a_copy_is_a_model_of_its_own(made):
    model, x, _ = made
    stirred(inject(model))
    found, twin = logits(model, x), copy.deepcopy(model)
    eject(model)
    assert torch.equal(logits(twin, x), found)


@language
def test_half_precision(made):
    model, x, _ = made
    inject(model)
    before = logits(model, x)
    half = logits(model.bfloat16(), x)
    assert half.dtype is torch.bfloat16
    assert {p.dtype for p in connection_parameters(model)} == {torch.float32}
    assert (half.float() - before).abs().max() < 0.1 * before.abs().max().clamp(min=1)


def forward_lines(name: str) -> list[str]:
    """What a decoder layer does from its first `residual` on, without what it hands to attention."""
    package = importlib.import_module("transformers").__file__
    assert package is not None
    sources = (file.read_text(encoding="utf-8") for file in Path(package).parent.glob("models/*/modeling_*.py"))
    text = next(source for source in sources if f"\nclass {name}(" in source)
    layer = re.search(rf"^class {name}\(.*?(?=^class |^@|\Z)", text, re.S | re.M)
    assert layer is not None
    code = re.sub(r"#.*", "", layer.group(0))
    lines = code[code.index("\n        residual", code.index("def forward")) :].splitlines()
    return [line.strip() for line in lines if line.strip() and not re.fullmatch(r" +(\w+=\w+|\*\*kwargs),", line)]


def test_every_layer_that_is_called_llama_style_is():
    expected = forward_lines("LlamaDecoderLayer")
    assert len(expected) == 10
    assert [name for name in LLAMA_STYLE if forward_lines(name) != expected] == []


def test_the_code_of_the_page_runs(operators_of_torchvision):
    page = (Path(__file__).parents[2] / "docs" / "library.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python needs=(?:transformers|lightning)\n(.*?)```", page, re.S)
    assert len(blocks) == 3
    exec(compile("\n".join(blocks), "library.md", "exec"), {})


def test_a_convolution_history_in_a_resnet(operators_of_torchvision):
    """The README example of the package `mhc` 0.5.5, `inject_mhc(resnet50, nn.Conv2d)`, on what has no residual of its
    own: nothing outlives a call, every projection is there before the optimizer.
    """
    torch.manual_seed(0)
    model, x = timm("resnet18")().eval(), torch.randn(2, 3, 32, 32)
    names = {name for name, _ in model.named_parameters()}
    inject_mhc(model, target_types=type(model.layer1[0]), max_history=4, example=x)
    added = {name for name, _ in model.named_parameters()} - names
    assert {name.partition("history_connection")[0] for name in added}
    first = model(x)
    model(torch.randn(3, 3, 32, 32))
    assert torch.equal(model(x), first)
    model.train()(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
