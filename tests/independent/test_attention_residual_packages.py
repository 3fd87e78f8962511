"""attn-res (a whole model) and fla-core (its reference of the read) against our attention residuals."""

from __future__ import annotations

import pytest
import torch
from other_code import WIDTH, Branch, Method, agreement, called, imported, linear, named, theirs

from mhc_exp.config.compose import compose
from mhc_exp.topology.history.attnres import block_size, shapes

pytestmark = pytest.mark.independent
BATCH = (2, 5, WIDTH)
SUBLAYERS = 4


def model(mode, blocks):
    """attn-res with one sublayer more than we have, which puts out what it reads: see `hidden`."""
    package = imported("attn_res.main")
    torch.manual_seed(0)
    sizes = {"d_model": WIDTH, "n_heads": 2, "n_kv_heads": 2, "vocab_size": 7, "max_seq_len": BATCH[1]}
    config = package.TransformerConfig(**sizes, n_layers=SUBLAYERS, n_blocks=blocks, attn_res_mode=mode)
    found = package.AttnResTransformer(config).eval()
    last = package.TransformerSubLayer(config, SUBLAYERS, is_attention=False)
    last.norm, last.fn = torch.nn.Identity(), torch.nn.Identity()
    found.layers.append(last)
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return found.double()


def branches_of(found, mask):
    def attention(layer):
        return Branch(lambda x: layer.fn(x, found.rope_freqs, mask), layer.norm)

    return [
        attention(layer) if layer.is_attention else Branch(layer.fn, layer.norm) for layer in found.layers[:SUBLAYERS]
    ]


@pytest.mark.parametrize(("name", "blocks"), [("attnres", 2), ("block_attnres", 2), ("block_attnres", 4)])
def test_attention_residuals_are_those_of_attn_res(name, blocks, random, digits):
    """It hands the plain sum of all sources to the head. The added sublayer's output is one more of them: what it adds
    to that sum is the read of the head in the paper. Its keys have no weight.
    """
    package = imported("attn_res.main")
    options = [f"variant={name}", *([f"variant.blocks={blocks}"] if name == "block_attnres" else [])]
    variant = compose(options).variant
    mode = package.AttnResMode.BLOCK if name == "block_attnres" else package.AttnResMode.FULL
    found = model(mode, blocks)
    mask = found._build_causal_mask(BATCH[1], torch.device("cpu"))
    forward = Method(found, f"_forward_{mode.value}_attnres")
    layers, added = found.layers, found.layers[-1]
    parameters = {
        f"topology.connections.{index}.{key}": random.normal(size=shape)
        for index, one in enumerate(shapes(variant, WIDTH, SUBLAYERS // 2))
        for key, shape in one.items()
    }

    def code(x, leaves):
        asked = {
            f"module.layers.{index}.attn_res.pseudo_query": leaves[f"topology.connections.{index}.query"]
            * leaves[f"topology.connections.{index}.key_norm"]
            for index in range(1, SUBLAYERS + 1)
        }
        sums = []
        for shown in (layers, layers[:-1]):
            found.layers = shown
            known = {key: value for key, value in asked.items() if int(key.split(".")[2]) < len(shown)}
            sums.append(called(forward, known, x, found.rope_freqs, mask))
        found.layers = layers
        return sums[0] - sums[1]

    assert added is layers[SUBLAYERS]
    result = agreement(variant, branches_of(found, mask), parameters, code, random.normal(size=BATCH))
    about = f"`{name}`" + (f", blocks = {blocks}" if name == "block_attnres" else "")
    digits(about, "attn-res", f"AttnResTransformer, {mode.value}", "two blocks; norms in float32", result)
    assert result.within(1e-5)


@pytest.mark.parametrize("options", [["attnres"], ["block_attnres", "variant.blocks=2"], ["mhar", "variant.heads=4"]])
def test_reads_of_attention_residuals_are_those_of_flash_linear_attention(options, random, digits):
    """With heads, a head's channels of the read whose query is zero elsewhere."""
    naive = theirs("fla", "ops/attnres/naive.py").naive_attnres
    variant = compose([f"variant={options[0]}", *options[1:]]).variant
    size, heads = block_size(variant, SUBLAYERS // 2), variant.heads
    branches = [linear(random) for _ in range(SUBLAYERS)]
    parameters = {}
    for index, one in enumerate(shapes(variant, WIDTH, SUBLAYERS // 2)):
        parameters |= named(one, random, f"topology.connections.{index}.")

    def read(leaves, index, sources):
        if len(sources) == 1:
            return sources[0]
        query, weight = (leaves[f"topology.connections.{index}.{name}"] for name in ("query", "key_norm"))
        owner = torch.arange(WIDTH) // (WIDTH // heads)
        parts = [naive(query * (owner == head), sources, weight)[..., owner == head] for head in range(heads)]
        return torch.cat(parts, dim=-1)

    def code(x, leaves):
        sources = [x]
        for index, branch in enumerate(branches):
            output = branch(read(leaves, index, sources))
            sources = [*sources, output] if index % size == 0 else [*sources[:-1], sources[-1] + output]
        return read(leaves, SUBLAYERS, sources)

    found = agreement(variant, branches, parameters, code, random.normal(size=BATCH))
    digits(f"`{options[0]}`", "fla-core", "naive_attnres", "two blocks; theirs in float32", found)
    assert found.within(1e-5)
