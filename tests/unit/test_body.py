"""The body without a framework: initial values, counts, FLOPs, and what its reference computes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mhc_exp.body import flops, reference
from mhc_exp.body.parameters import fingerprint, hidden_width, initial_parameters, is_connection
from mhc_exp.config.compose import compose
from mhc_exp.topology import families

VOCABULARY = 256


def values(*overrides):
    return initial_parameters(compose(list(overrides)), VOCABULARY)


def test_a_parameter_does_not_depend_on_what_else_is_in_the_model():
    deep, shallow = values("depth=5", "model.init=pytorch"), values("depth=2", "model.init=pytorch", "variant=mhc")
    shared = deep.keys() & shallow.keys()
    assert len(shared) > 20
    assert all((deep[name] == shallow[name]).all() for name in shared)


def test_seeds_and_names_give_different_values():
    first, second = values("seed=1", "depth=2"), values("seed=2", "depth=2")
    assert not (first["embed.weight"] == second["embed.weight"]).any()
    assert not (first["blocks.0.mlp.up.weight"] == first["blocks.1.mlp.up.weight"]).any()


@pytest.mark.parametrize(
    ("init", "name", "std"),
    [
        ("fan_in", "blocks.0.attention.qkv.weight", 64**-0.5),
        ("fan_in", "blocks.0.mlp.down.weight", 256**-0.5 / 24**0.5),
        ("fan_in", "embed.weight", 1.0),
        ("gpt2", "blocks.0.attention.qkv.weight", 0.02),
        ("gpt2", "blocks.0.attention.out.weight", 0.02 / 24**0.5),
        ("pytorch", "embed.weight", 1.0),
        ("pytorch", "blocks.0.attention.qkv.weight", math.sqrt(6 / 256) / math.sqrt(3)),
        ("pytorch", "blocks.0.mlp.up.bias", 64**-0.5 / math.sqrt(3)),
        ("pytorch", "positions.weight", 0.01),
    ],
)
def test_initial_scales(init, name, std):
    array = values(f"model.init={init}")[name]
    assert array.dtype == np.float32
    assert array.std() == pytest.approx(std, rel=0.1)
    assert abs(array.mean()) < 5 * std / math.sqrt(array.size)


def test_hc_may_scale_its_output_projections_by_sqrt_n():
    plain, scaled = values("variant=hc"), values("variant=hc", "variant.scale_output_init=true")
    for name in ("blocks.3.attention.out.weight", "blocks.3.mlp.down.weight"):
        np.testing.assert_allclose(scaled[name], 2 * plain[name], rtol=1e-6)
    assert (scaled["blocks.3.mlp.up.weight"] == plain["blocks.3.mlp.up.weight"]).all()


def test_body_parameters_are_equal_in_number_for_every_wiring():
    counts = {
        sum(array.size for name, array in values(f"variant={variant}").items() if not is_connection(name))
        for variant in ("none", "baseline", "hc", "mhc", "deepseek_v4", "demo_mhc")
    }
    assert counts == {12 * (4 * 64 * 64 + 2 * 4 * 64 * 64 + 13 * 64) + 2 * 256 * 64 + 64 * 64 + 2 * 64}


def test_the_fingerprint_sees_one_bit_and_one_name():
    first = values("depth=1")
    second = {name: array.copy() for name, array in first.items()}
    assert fingerprint(first) == fingerprint(dict(reversed(second.items())))
    second["norm.weight"].view(np.uint32)[0] ^= 1
    assert fingerprint(first) != fingerprint(second)
    renamed = {("x" if name == "norm.weight" else name): array for name, array in first.items()}
    assert fingerprint(first) != fingerprint(renamed)


def test_hidden_width_defaults():
    assert hidden_width(compose([]).model) == 256
    assert hidden_width(compose(["model.activation=swiglu"]).model) == 176  # 8/3 * 64 = 170.7, up to a multiple of 8
    assert hidden_width(compose(["model.d_ff=100"]).model) == 100


def test_forward_flops_count_every_matrix_product():
    """Against a count by hand: 2 FLOPs per multiply-add of each weight matrix, plus attention over T/2 keys."""
    config = compose(["depth=3"])
    matrices = sum(
        array.size
        for name, array in initial_parameters(config, VOCABULARY).items()
        if array.ndim == 2 and not name.startswith(("embed", "positions"))
    )
    attention = 3 * 2 * (2 * 64 * 64 / 2)
    assert flops.forward_flops_per_token(config, VOCABULARY) == 2 * matrices + attention
    assert flops.training_flops_per_token(config, VOCABULARY) == 3 * (2 * matrices + attention)


def test_connections_cost_flops_and_the_identity_costs_less():
    per_token = {
        variant: families.flops_per_token(compose([f"variant={variant}"]).variant, width=64, depth=12)
        for variant in ("baseline", "identity_hc", "mhc")
    }
    assert per_token["baseline"] == 0 < per_token["identity_hc"] < per_token["mhc"]
    # projection of one connection: 2 * nC * (n^2 + 2n); read, mix, write: (2n + 2n^2 + 2n) C
    assert per_token["mhc"] == 24 * (2 * 256 * 24 + 3 * 256 + 20 * 4 * 16 + (8 + 32 + 8) * 64)


def test_utilisation_is_reported_only_where_the_peak_is_known():
    assert flops.peak_flops("NVIDIA H100 80GB HBM3", "bfloat16") == 989e12
    assert flops.peak_flops("NVIDIA H100 PCIe", "bfloat16") == 756e12
    assert flops.peak_flops("NVIDIA L40S", "bfloat16") == 362e12
    assert flops.peak_flops("NVIDIA L4", "bfloat16") == 121e12
    for device, dtype in (
        ("NVIDIA L40", "bfloat16"),
        ("NVIDIA H100 80GB HBM3", "float32"),
        ("cpu (1 threads)", "bfloat16"),
    ):
        assert flops.peak_flops(device, dtype) is None


@pytest.mark.parametrize(
    "variant",
    [
        "baseline",
        "hc",
        "mhc",
        "deepseek_v4",
        "deepseek_v41",
        "mhc_lss",
        "gated_residual",
        "frac",
        "vwn",
        "xhc",
        "hyperloop",
        "demo_hc",
    ],
)
def test_no_position_sees_the_future(variant):
    config = compose([f"variant={variant}", "depth=2", "model.width=8", "model.heads=2", "model.seq_len=6"])
    exact = {name: array.astype(np.float64) for name, array in initial_parameters(config, 16).items()}
    tokens = np.random.default_rng(0).integers(0, 16, (1, 6))
    changed = tokens.copy()
    changed[0, 4] = (changed[0, 4] + 1) % 16
    before, after = reference.logits(exact, config, tokens), reference.logits(exact, config, changed)
    assert (before[0, :4] == after[0, :4]).all()
    assert (before[0, 4:] != after[0, 4:]).any()


def test_rotary_positions_make_scores_depend_on_distance_alone():
    random = np.random.default_rng(0)
    q, k = random.normal(size=(2, 8))
    queries = reference.rotate(np.tile(q, (1, 1, 6, 1)))[0, 0]
    keys = reference.rotate(np.tile(k, (1, 1, 6, 1)))[0, 0]
    scores = queries @ keys.T
    for offset in range(-5, 6):
        np.testing.assert_allclose(np.diagonal(scores, offset), np.diagonal(scores, offset)[0], atol=1e-12)
