"""One stream: the authors' ReZero, PyTorch's own layers, x-transformers' LayerScale, scaled skip and value residual."""

from __future__ import annotations

import pytest
import torch
from other_code import WIDTH, Branch, agreement, called, imported, theirs
from torch import nn

from mhc_exp.config.compose import compose

pytestmark = pytest.mark.independent
BATCH = (2, 5, WIDTH)


def test_rezero_is_that_of_its_authors(random, digits):
    package = theirs("rezero", "transformer/rztx.py")
    torch.manual_seed(0)
    layers = [package.RZTXEncoderLayer(WIDTH, 2, 32, dropout=0.0).double().eval() for _ in range(2)]
    branches, parameters = [], {}
    for index, layer in enumerate(layers):
        parameters[f"topology.gates.{index}"] = random.normal(size=1)
        branches.append(Branch(lambda x, layer=layer: layer.self_attn(x, x, x)[0]))
        branches.append(Branch(lambda x, layer=layer: layer.linear2(layer.activation(layer.linear1(x)))))

    def code(x, leaves):
        for index, layer in enumerate(layers):
            x = called(layer, {"resweight": leaves[f"topology.gates.{index}"]}, x)
        return x

    variant = compose(["variant=rezero"]).variant
    found = agreement(variant, branches, parameters, code, random.normal(size=BATCH))
    digits("`rezero`", "rezero", "RZTXEncoderLayer (the authors')", "two layers, float64", found)
    assert found.within(1e-10)


@pytest.mark.parametrize(("name", "first"), [("post_norm", False), ("baseline", True)])
def test_norms_stand_where_pytorchs_own_layer_puts_them(name, first, random, digits):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, dropout=0.0, norm_first=first, batch_first=True).double()
    for norm in (layer.norm1, layer.norm2):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    branches = [
        Branch(lambda x: layer.self_attn(x, x, x, need_weights=False)[0], layer.norm1),
        Branch(lambda x: layer.linear2(torch.relu(layer.linear1(x))), layer.norm2),
    ]
    variant = compose([f"variant={name}"]).variant
    found = agreement(variant, branches, {}, lambda x, _: layer(x), random.normal(size=BATCH))
    digits(f"`{name}`", "torch", "nn.TransformerEncoderLayer", "a layer, float64", found)
    assert found.within(1e-10)


def decoder(**options):
    """x-transformers' decoder of two blocks without its final norm, and its sublayers for us."""
    package = imported("x_transformers")
    torch.manual_seed(0)
    sizes = {"dim": WIDTH, "depth": 2, "heads": 2, "attn_dim_head": 8, "pre_norm_has_final_norm": False}
    model = package.Decoder(**sizes, **options).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model, [_sublayer(norms, block) for norms, block, _ in model.layers]


def _sublayer(norms, block):
    before, _, after = norms
    norm = after if before is None else before
    block = getattr(block, "fn", block)  # LayerScale is a wrapper
    if not hasattr(block, "to_q"):
        return Branch(block, norm)

    def project(query, key, value):
        return block.to_q(query), block.to_k(key), block.to_v(value)

    def attend(q, k, v):
        q, k, v = (x.unflatten(-1, (2, 8)).transpose(1, 2) for x in (q, k, v))
        heads = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return block.to_out(heads.transpose(1, 2).flatten(2))

    return Branch(lambda x: attend(*project(x, x, x)), norm, project, attend)


def test_layer_scale_is_that_of_x_transformers(random, digits):
    """Which keeps gamma less one."""
    model, branches = decoder(use_layerscale=True)
    parameters = {f"topology.gates.{index}": random.normal(size=WIDTH) for index in range(4)}

    def code(x, leaves):
        gammas = {f"layers.{index}.1.gamma": leaves[f"topology.gates.{index}"] - 1 for index in range(4)}
        return called(model, gammas, x)

    variant = compose(["variant=layer_scale"]).variant
    found = agreement(variant, branches, parameters, code, random.normal(size=BATCH))
    digits("`layer_scale`", "x-transformers", "Decoder(use_layerscale)", "two blocks; softmax in float32", found)
    assert found.within(1e-6)


def test_deepnorm_is_the_scaled_post_norm_residual_of_x_transformers(random, digits):
    """Its constant is an option, to which we give the paper's alpha = (2L)^(1/4)."""
    model, branches = decoder(pre_norm=False, scale_residual_constant=4**0.25)
    variant = compose(["variant=deepnorm"]).variant
    found = agreement(variant, branches, {}, lambda x, _: model(x), random.normal(size=BATCH))
    what = "two blocks; softmax in float32"
    digits("`deepnorm`", "x-transformers", "Decoder(scale_residual_constant, pre_norm=False)", what, found)
    assert found.within(1e-6)


def test_fixed_value_residual_is_that_of_x_transformers(random, digits):
    """Identity-ResFormer at one half, which is its mix when it is not learned."""
    model, branches = decoder(add_value_residual=True, learned_value_residual_mix=False)
    variant = compose(["variant=value_residual", "variant.learnable=false"]).variant
    found = agreement(variant, branches, {}, lambda x, _: model(x), random.normal(size=BATCH))
    digits(
        "`value_residual`, fixed",
        "x-transformers",
        "Decoder(add_value_residual)",
        "two blocks; softmax in float32",
        found,
    )
    assert found.within(1e-6)


def test_the_learned_value_residual_of_x_transformers_is_another_one():
    """A sigmoid of the token per head, between the two values; the paper has two free numbers per block."""
    model, _ = decoder(add_value_residual=True)
    mix = model.layers[2][1].to_value_residual_mix
    assert mix[0].weight.shape == (2, WIDTH)
    assert isinstance(mix[1], nn.Sigmoid)
