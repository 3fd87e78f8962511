"""What holds before and right after the first updates: same bytes, pre-norm equality, gradients everywhere."""

from __future__ import annotations

import cases
import numpy as np
import pytest

from mhc_exp.body import reference
from mhc_exp.body.parameters import fingerprint, initial_parameters, is_connection
from mhc_exp.config.checks import check
from mhc_exp.config.variant_rules import INIT_NEEDS
from mhc_exp.config.variants import Sparse, Streams
from mhc_exp.topology.charts import CHARTS
from mhc_exp.topology.families import connection, equals_prenorm_at_step_0, mix_rows, streams_of, wrapped
from mhc_exp.topology.gains import mean_cosine
from mhc_exp.topology.init import PRESETS
from mhc_exp.topology.layout import layout

PRESET_CASES = {
    f"mhc {name}": ["variant=mhc", f"variant.init={name}"]
    for name in PRESETS
    if "sinkhorn" in INIT_NEEDS[name].charts and "sigmoid" in INIT_NEEDS[name].gates
}
UNIT_WRITES = {
    f"{name} {preset}": [*cases.WIRINGS[name], f"variant.init={preset}"]
    for name, preset in {
        "deepseek_v4": "mhc_lab",
        "mhc_lite": "near_identity",
        "go_mhc": "near_identity",
        "tbp_mhc": "mhc_lab",
        "mhc cayley": "near_identity",
        "mhc row_softmax": "near_identity",
        "mhc column_softmax": "near_identity",
    }.items()
}
"""Every stream receives exactly one F: pre-norm at step 0 if the chart has unit rows or starts at the identity."""

STARTS = {**cases.WIRINGS, **PRESET_CASES, **UNIT_WRITES}
DEPTH = ["depth=3"]
DIFFERENT = (
    "none",
    "post_norm",
    "rezero",
    "deepnorm",
    "demo_hc",
    "demo_mhc",
    "mhc lite_repo",
    "mhc soft_identity",
    "hyperloop",
)
"""Starts that are not the pre-norm transformer, by construction and by more than rounding."""


@pytest.mark.gate("same start")
@pytest.mark.parametrize("wiring", cases.SHIPPED)
def test_both_backends_start_from_the_same_bytes(wiring):
    config = cases.tiny(cases.WIRINGS[wiring])
    prints = {fingerprint(make(config).state().model) for make in cases.TRAINERS.values()}
    assert prints == {fingerprint(initial_parameters(config, cases.VOCABULARY))}


def test_the_body_starts_the_same_under_every_wiring():
    """All but DeepNorm, whose paper prescribes initial weights (its key deepnorm_init)."""
    bodies = set()
    for wiring in set(cases.SHIPPED) - {"deepnorm"}:
        values = initial_parameters(cases.tiny(cases.WIRINGS[wiring]), cases.VOCABULARY)
        bodies.add(fingerprint({name: value for name, value in values.items() if not is_connection(name)}))
    assert len(bodies) == 1


def test_initial_weights_are_golden():
    """A change here changes every run ever made: say why in the commit."""
    config = cases.tiny(["variant=mhc", "variant.init=uniform", "seed=7"])
    assert fingerprint(initial_parameters(config, cases.VOCABULARY))[:16] == "9fbf907e241e62c8"


@pytest.mark.gate("pre-norm at 0")
@pytest.mark.parametrize("start", STARTS)
def test_step_0_equals_prenorm_exactly_where_claimed(start):
    config = cases.tiny([*STARTS[start], *DEPTH])
    size = [word for word in STARTS[start] if word.startswith("model.")]
    prenorm = cases.tiny(["variant=baseline", *DEPTH, *size])
    batch = cases.batch()
    expected = reference.loss(double(prenorm), prenorm, batch)
    # eps of norms (1e-5) and DeepSeek's eps (1e-6 per division) are all that may remain
    difference = abs(reference.loss(double(config), config, batch) - expected)
    if equals_prenorm_at_step_0(config.variant):
        assert difference <= 1e-5
        for make in cases.TRAINERS.values():
            assert make(config).evaluate([batch]).loss == pytest.approx(expected, abs=1e-5)
    elif start in DIFFERENT:
        assert difference > 2e-5


def double(config):
    return {name: value.astype(np.float64) for name, value in initial_parameters(config, cases.VOCABULARY).items()}


def parts(config, gradients):
    """Gradients of connection parameters, split into the rows of read, write and mix where they are packed."""
    own = {name: gradient for name, gradient in gradients.items() if is_connection(name)}
    wiring = connection(config.variant)
    if wiring is None:
        yield from parts_of_another_family(config, own)
        return
    sizes = layout(wiring)
    for name, gradient in own.items():
        leaf = name.rpartition(".")[2]
        if leaf == "scale":
            yield from ((f"{name} {part}", gradient[part : part + 1]) for part in range(len(gradient)))
        elif "connections" not in name or ".norm." in name:
            yield name, gradient
        elif leaf == "weight" and wiring.norm == "layer":
            yield from ((f"{name} {part}", gradient[rows]) for part, rows in
                        (("read", slice(0, 1)), ("write", slice(1, 2)), ("mix", slice(2, None))))  # fmt: skip
        else:
            yield from (
                (f"{name} {part}", gradient[rows])
                for part, rows in zip(("read", "write", "mix"), sizes.slices, strict=True)
            )


def parts_of_another_family(config, gradients):
    """As `parts`, where read and write need not be packed: the rows of mix and the rest, scales one by one."""
    mixing = dict(mix_rows(config.variant, list(gradients)))
    for name, gradient in gradients.items():
        if name in mixing:
            yield f"{name} mix", gradient[mixing[name]]
            yield name, gradient[: mixing[name].start]
        elif name.endswith("scale") and gradient.ndim == 1:
            yield from ((f"{name} {part}", gradient[part : part + 1]) for part in range(len(gradient)))
        else:
            yield name, gradient


def trained_in_double(config, steps=5):
    """A float64 model after `steps` Adam updates, and the largest gradient of each part relative to the whole."""
    import torch

    trainer = cases.to_double(cases.torch_trainer(config))
    optimizer = torch.optim.Adam(trainer.model.parameters(), lr=1e-2)
    seen: dict[str, float] = {}
    for step in range(1, steps + 1):
        gradients = trainer.gradients(cases.batch(step))
        total = np.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
        for name, gradient in parts(config, gradients):
            if gradient.size:
                seen[name] = max(seen.get(name, 0.0), np.abs(gradient).max() / total)
        optimizer.step()
    return trainer, seen


TRAINABLE = [name for name in STARTS if not name.startswith("demo")]


@pytest.mark.gate("gradient by step 5")
@pytest.mark.parametrize("start", TRAINABLE)
def test_every_connection_parameter_has_a_gradient_by_step_5(start):
    """All but those that no network of this structure can see, whatever the initial values."""
    config = cases.tiny([*STARTS[start], *DEPTH])
    _, seen = trained_in_double(config)
    assert {name for name, size in seen.items() if size < 1e-13} <= invisible(config, seen)
    assert all(seen[name] < 1e-4 for name in invisible(config, seen))


def invisible(config, seen):
    """Parameters without influence (up to Sinkhorn's truncation and eps), by structure.

    The first connection mixes replicas, which unit row sums leave alone; a sum or mean read-out does not see a last
    mixing with unit column sums. A single stream has a 1 x 1 doubly stochastic matrix, which is 1. Rotations and
    forgetting rates have no unit sums and hide nothing. The read that the last connection predicts for the next one is
    used only if the read-out is that next one.
    """
    wiring = connection(config.variant)
    if wiring is not None:
        return unread(config, wiring, seen) | unmixed(config, wiring, seen)
    return unseen_by_a_sparse_wiring(config, seen) if isinstance(config.variant, Sparse) else set()


def last_connection(config):
    count = len(wrapped(config.variant, config.depth)) or 2 * config.depth
    return f"topology.connections.{count - 1}."


def unseen_by_a_sparse_wiring(config, seen):
    """Mixing as above (clamped rows sum to one as well), and the first read: a sum of replicas is one of them times a
    number, which the sublayer's norm takes away up to its eps. (Few streams leave more of that than 1e-13.)
    """
    variant, mixing, reading = config.variant, (" mix", "scale 2"), ("scale 0", "read_bias", "read_weight")
    unit_rows, unit_columns = unit_sums(variant.mix)
    clamped_to_one = variant.clamp and variant.mix.chart == "exp"
    dead = set()
    if variant.expand == "replicate":
        first = {name for name in seen if name.startswith("topology.connections.0.")}
        unseen = mixing + reading if unit_rows or clamped_to_one else reading
        dead |= {name for name in first if name.endswith(unseen)}
    if unit_columns:
        dead |= {name for name in seen if name.startswith(last_connection(config)) and name.endswith(mixing)}
    return dead


def unit_sums(spec):
    """Whether all rows and all columns of H_res as applied sum to one, whatever its logits."""
    stochastic = CHARTS[spec.chart].stochastic
    sums = stochastic in ("both", "rows"), stochastic in ("both", "columns")
    return sums if spec.apply == "plain" else sums[::-1]


def unread(config, wiring, seen):
    if wiring.read_from == "current" or wiring.reduce == "last_read":
        return set()
    reads = (" read", "scale 0") if wiring.norm == "flat_rms" else (" read",)
    return {name for name in seen if name.startswith(last_connection(config)) and name.endswith(reads)}


def unmixed(config, variant, seen):
    mixing = {name for name in seen if name.endswith(" mix")}
    if variant.norm == "flat_rms":  # HC's scale of the mixing is also that of the read
        mixing |= {name for name in seen if name.endswith("scale 2")}
    unit_rows, unit_columns = unit_sums(variant.mix)
    if variant.streams == 1 and (unit_rows or unit_columns):
        return mixing
    dead = set()
    if unit_rows and variant.expand == "replicate":
        dead |= {name for name in mixing if name.startswith("topology.connections.0.")}
    if unit_columns and variant.reduce in ("sum", "mean"):
        dead |= {name for name in mixing if name.startswith(last_connection(config))}
    return dead


@pytest.mark.gate("streams part")
@pytest.mark.parametrize("start", TRAINABLE)
def test_streams_have_left_the_saddle_by_step_40(start):
    """How fast depends on the preset (docs/variants.md prints it); a wiring stuck on the saddle stays below 1e-15."""
    config = cases.tiny([*STARTS[start], *DEPTH])
    if streams_of(config.variant) in (None, 1):
        pytest.skip("a single stream has nothing to separate from")
    trainer, _ = trained_in_double(config, steps=40)
    assert 1 - mean_cosine(trainer.diagnose(cases.batch()).gram[-1]) > 1e-10


def test_the_detector_sees_that_demo_mhc_never_trains_its_connections():
    """Replicated streams + doubly stochastic mixing + symmetric read-out: an exact saddle (docs/seed_demo.md).

    Measured on the seed's own code: <= 3e-8 while its blocks get 1e-2. Adam then turns that noise into drift.
    """
    config = cases.tiny(["variant=demo_mhc", *DEPTH])
    trainer, seen = trained_in_double(config)
    assert max(seen.values()) < 1e-12
    single = cases.torch_trainer(config).gradients(cases.batch())
    connections = max(np.abs(value).max() for name, value in single.items() if is_connection(name))
    blocks = max(np.abs(value).max() for name, value in single.items() if name.startswith("blocks"))
    assert connections <= 3e-8
    assert blocks > 1e-3
    assert mean_cosine(trainer.diagnose(cases.batch()).gram) == pytest.approx(1.0, abs=1e-14)


def test_demo_hc_streams_stay_identical_for_ever():
    trainer, seen = trained_in_double(cases.tiny(["variant=demo_hc", *DEPTH]), steps=8)
    assert max(value for name, value in seen.items() if name.endswith("mix")) > 1e-4
    assert max(value for name, value in seen.items() if name.endswith(("read", "write"))) < 1e-12
    assert mean_cosine(trainer.diagnose(cases.batch()).gram) == pytest.approx(1.0, abs=1e-14)


@pytest.mark.parametrize(("init", "part"), [("near_identity", False), ("zero_mix", True), ("uniform", True)])
def test_streams_of_a_single_loop_part_only_if_the_preset_tells_them_apart(init, part):
    """Which is why config.looped_rules refuses the others."""
    config = cases.tiny(["variant=hyperloop", "variant.loops=1", f"variant.init={init}", *DEPTH])
    trainer, seen = trained_in_double(config, steps=8)
    assert max(value for name, value in seen.items() if name.endswith(("read", "write"))) > 1e-4
    apart = 1 - mean_cosine(trainer.diagnose(cases.batch()).gram)
    assert (apart > 1e-10) == part
    assert any("as copies" in problem.message for problem in check(config)) == (not part)


@pytest.mark.parametrize("start", PRESET_CASES)
def test_presets_say_whether_streams_differ_before_training(start):
    config = cases.tiny([*STARTS[start], *DEPTH])
    assert isinstance(config.variant, Streams)
    cosine = mean_cosine(cases.torch_trainer(config).diagnose(cases.batch()).gram)
    assert (cosine < 1 - 1e-5) == PRESETS[config.variant.init].separates
