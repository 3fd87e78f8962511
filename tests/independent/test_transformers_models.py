"""Model code in transformers against ours: DeepSeek-V4, HY-V4, Qwen's gated residual; Inkling's and Gemma's variations.

The connections are modules of their own there; the lines of the decoder layers that apply them are repeated here.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from other_code import STREAMS, WIDTH, Branch, agreement, apart, below, called, connection, imported, linear, named, own

from mhc_exp.config.compose import compose
from mhc_exp.topology.gated import connection_shapes, read_shapes
from mhc_exp.topology.layout import NORM_EPS, readout_shapes
from mhc_exp.topology.reference.history.attnres import read as attention_residual

pytestmark = pytest.mark.independent
BATCH = (2, 5, WIDTH)


def modeling(name):
    return imported(f"transformers.models.{name}.modeling_{name}")


def stream_config(**extra):
    return SimpleNamespace(hc_mult=STREAMS, hidden_size=WIDTH, rms_norm_eps=NORM_EPS, **extra)


def weights(values):
    """Our parameters of one stream connection as theirs."""
    return {"fn": values["weight"], "base": values["bias"], "scale": values["scale"]}


def test_deepseek_v4_is_that_of_transformers(random, digits):
    package, variant = modeling("deepseek_v4"), compose(["variant=deepseek_v4"]).variant
    config = stream_config(hc_sinkhorn_iters=20, hc_eps=1e-6)
    module, head = package.DeepseekV4HyperConnection(config), package.DeepseekV4HyperHead(config)
    parameters = connection(variant, random, 0) | connection(variant, random, 1)
    parameters |= named(readout_shapes(variant, WIDTH), random, "topology.readout.")
    branches = [linear(random), linear(random)]

    def code(x, leaves):
        x = x.unsqueeze(2).expand(-1, -1, STREAMS, -1).contiguous()
        for index, branch in enumerate(branches):
            post, comb, collapsed = called(module, weights(own(leaves, index)), x)
            mixed = torch.matmul(comb.to(x.dtype).transpose(-1, -2), x)
            x = post.to(x.dtype).unsqueeze(-1) * branch(collapsed).unsqueeze(-2) + mixed
        values = below("topology.readout.", leaves)
        read = {"hc_fn": values["weight"], "hc_base": values["bias"], "hc_scale": values["scale"]}
        return called(head, read, x)

    found = agreement(variant, branches, parameters, code, random.normal(size=BATCH))
    what = "two connections and read-out; theirs in float32"
    digits("`deepseek_v4`", "transformers", "DeepseekV4HyperConnection, DeepseekV4HyperHead", what, found)
    assert found.within(1e-5)


def test_identity_hyper_connections_are_those_of_hy_v4(random, digits):
    """With its eps 0 and magnitude 2, which are options there."""
    package, variant = modeling("hy_v4"), compose(["variant=identity_hc"]).variant
    module = package.HYV4HyperConnection(stream_config(hc_eps=0.0, hc_magnitude=2.0))
    parameters = connection(variant, random, 0) | connection(variant, random, 1)
    branches = [linear(random), linear(random)]

    def code(x, leaves):
        x = x.unsqueeze(2).expand(-1, -1, STREAMS, -1)
        for index, branch in enumerate(branches):
            post, taken = called(module, weights(own(leaves, index)), x)
            x = post.unsqueeze(-1) * branch(taken).unsqueeze(-2) + x
        return x.sum(2)

    found = agreement(variant, branches, parameters, code, random.normal(size=BATCH))
    what = "two connections, sum; theirs in float32"
    digits("`identity_hc`", "transformers", "HYV4HyperConnection", what, found)
    assert found.within(1e-5)


def rms(x):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + NORM_EPS)


def gates(values):
    """Our parameters of one gated read or connection as theirs, whose norm has the weight 1 + w."""
    found = {
        "hc_norm.weight": values["gain"].flatten() - 1,
        "input_mix_weight_down.weight": values["down"],
        "input_mix_weight_up.weight": values["up"],
    }
    return found | ({"block_inject_weight.weight": values["write"]} if "write" in values else {})


def test_gated_residual_is_that_of_qwen4_exp(random, digits):
    """Its norm has no weight of the body's norm before it, so the body's is 1 here."""
    package, variant = modeling("qwen4_exp"), compose(["variant=gated_residual"]).variant
    config = SimpleNamespace(
        hc_count=STREAMS, hidden_size=WIDTH, hc_lowrank=WIDTH // variant.bottleneck, rms_norm_eps=NORM_EPS
    )
    module = package.Qwen4ExpTextGatedResidual(config)
    mixer = package.Qwen4ExpTextGatedResidual(config, use_combine=False)
    parameters = named(read_shapes(variant, WIDTH), random, "topology.readout.")
    for index in range(2):
        parameters |= named(connection_shapes(variant, WIDTH), random, f"topology.connections.{index}.")
    branches = [Branch(linear(random), rms) for _ in range(2)]

    def code(x, leaves):
        x = x.repeat(1, 1, STREAMS)
        for index, branch in enumerate(branches):
            taken, kept, injection = called(module, gates(own(leaves, index)), x)
            x = kept + (branch.inner(taken).unsqueeze(-2) * injection.unsqueeze(-1)).flatten(-2)
        return called(mixer, gates(below("topology.readout.", leaves)), x)

    found = agreement(variant, branches, parameters, code, random.normal(size=BATCH))
    what = "two connections and read-out; norms in float32"
    digits("`gated_residual`", "transformers", "Qwen4ExpTextGatedResidual", what, found)
    assert found.within(1e-5)


def test_inkling_attends_to_normed_sources_with_a_temperature(random):
    """arXiv:2603.15031 weighs the sources as they are, and does not divide scores by sqrt(C)."""
    package = modeling("inkling2")
    module = package.Inkling2BlockAttentionResidual(SimpleNamespace(hidden_size=WIDTH))
    query, sources = random.normal(size=WIDTH), random.normal(scale=3.0, size=(2, 5, 4, WIDTH))

    def their(values):
        states = torch.from_numpy(values)
        asked = {"query": torch.from_numpy(query)}
        return called(module, asked, states[..., :-1, :], states[..., -1, :])[0].detach()

    def ours(values, temperature):
        own = {"query": query / temperature, "key_norm": np.ones(WIDTH)}
        return attention_residual(list(np.moveaxis(values, -2, 0)), own, 1)

    normed = sources / np.sqrt((sources**2).mean(-1, keepdims=True))
    assert apart(ours(normed, WIDTH**0.5), their(sources)).within(1e-5)
    assert apart(ours(sources, WIDTH**0.5), their(sources)).output > 0.1
    assert apart(ours(normed, 1.0), their(sources)).output > 0.1


def test_the_laurel_of_gemma_3n_norms_its_low_rank_term(random):
    """arXiv:2411.07501 eq. 3 adds B A x as it is; a normed one is of the size of its weight, however small B A is."""
    module = modeling("gemma3n").Gemma3nTextLaurelBlock(
        SimpleNamespace(hidden_size=WIDTH, laurel_rank=4, rms_norm_eps=NORM_EPS)
    )
    x, down, up = random.normal(size=BATCH), random.normal(size=(4, WIDTH)), random.normal(size=(WIDTH, 4))

    normed = module.post_laurel_norm

    def their(norm):
        module.post_laurel_norm = norm
        values = {"linear_left.weight": torch.from_numpy(down), "linear_right.weight": torch.from_numpy(up)}
        return called(module, values, torch.from_numpy(x)).detach()

    ours = x + x @ down.T @ up.T
    assert apart(ours, their(torch.nn.Identity())).within(1e-12)
    assert apart(ours, their(normed)).output > 0.1
