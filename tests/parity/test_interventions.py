"""numpy = torch = MLX for models with changed coefficients, what changes must not change, and dL/dH_res."""

from __future__ import annotations

import contextlib
import sys

import cases
import numpy as np
import pytest

from mhc_exp.body import reference
from mhc_exp.topology import interventions
from mhc_exp.topology import reference as topology
from mhc_exp.topology.interventions import Intervention, Window
from mhc_exp.training.probe import make_probe

HOME = sys.modules[topology.coefficients.__module__]
"""The module whose `coefficients` the reference calls."""
ORDER = (2, 0, 3, 1)
CHANGES = {
    "identity": Intervention("identity"),
    "identity in the middle": Intervention("identity", Window(1, 3)),
    "token mean": Intervention("token_mean"),
    "uniform": Intervention("uniform"),
    "ablate": Intervention("ablate", stream=2),
    "ablate late": Intervention("ablate", Window(2), stream=0),
    "permute": Intervention("permute", order=ORDER),
    "permute once": Intervention("permute", Window(1, 2), order=ORDER),
}
WIRINGS = {
    "hc": ["variant=hc"],
    "mhc": ["variant=mhc"],
    "mhc static": ["variant=mhc", "variant.coefficients=static"],
    "identity_hc": ["variant=identity_hc"],
    "deepseek_v4": ["variant=deepseek_v4"],
    "blocks": ["variant=mhc", "variant.site=block", "depth=4"],
    "loops": ["variant=hyperloop", "variant.loops=4", "variant.begin=1"],
}
STREAMS = 4
CONNECTIONS = 4
"""Of two blocks at sublayer sites, of four at block sites, and of four loops."""
BACKENDS = {"torch": "cpu", "mlx": "mlx"}


def model(backend, overrides, values=None):
    """(trainer, probe, config) of a tiny model with perturbed weights."""
    config = cases.tiny(overrides, BACKENDS[backend])
    trainer = cases.with_weights(cases.TRAINERS[backend](config), cases.perturbed(config) if values is None else values)
    return trainer, make_probe(trainer, config), config


@contextlib.contextmanager
def changed_reference(monkeypatch, change):
    """The reference with `change`, connection by connection in the order in which it asks for coefficients."""
    original, asked = HOME.coefficients, iter(range(1000))

    def changed(x, *rest):
        found = original(x, *rest)
        return interventions.apply(change, *found) if next(asked) in change.window.indices(CONNECTIONS) else found

    with monkeypatch.context() as patch:
        patch.setattr(HOME, "coefficients", changed)
        yield


@pytest.mark.parametrize("backend", cases.TRAINERS)
@pytest.mark.parametrize("wiring", WIRINGS)
def test_the_loss_of_a_changed_model_equals_the_changed_reference(wiring, backend, monkeypatch):
    trainer, probe, config = model(backend, WIRINGS[wiring])
    batch, values = cases.batch(), cases.perturbed(config)
    exact = {name: value.astype(np.float64) for name, value in values.items()}
    plain = trainer.evaluate([batch]).loss
    for name, change in CHANGES.items():
        with changed_reference(monkeypatch, change):
            expected = reference.loss(exact, config, batch)
        with probe.intervened(change):
            found = trainer.evaluate([batch]).loss
        assert found == pytest.approx(expected, rel=1e-5), name
        without_effect = {"identity_hc": ("identity", "token"), "mhc static": ("token",)}.get(wiring, ())
        assert (abs(found - plain) < 1e-7) == name.startswith(without_effect or "-"), name
    assert trainer.evaluate([batch]).loss == plain, "the model is as it was"


@pytest.mark.parametrize("backend", cases.TRAINERS)
def test_the_model_is_as_it_was_after_an_error(backend):
    trainer, probe, _ = model(backend, ["variant=mhc"])
    plain, state = trainer.evaluate([cases.batch()]).loss, trainer.state().model

    def fail():
        with probe.intervened(CHANGES["uniform"]):
            assert trainer.evaluate([cases.batch()]).loss != plain
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert trainer.evaluate([cases.batch()]).loss == plain
    assert all((state[name] == value).all() for name, value in trainer.state().model.items())


@pytest.mark.parametrize("backend", cases.TRAINERS)
def test_places_do_not_matter_to_a_sum_over_streams(backend):
    """After the last connection only the order changes, and `reduce: sum` does not see it."""
    trainer, probe, _ = model(backend, ["variant=mhc"])
    with probe.intervened(Intervention("permute", Window(3), order=ORDER)):
        found = trainer.evaluate([cases.batch()]).loss
    assert found == pytest.approx(trainer.evaluate([cases.batch()]).loss, rel=1e-6)


def relabelled(values, order):
    """Static weights of a model whose stream i is stream order[i] of `values`."""
    order, moved = list(order), dict(values)
    for name, value in values.items():
        if name.endswith(".bias") and "connections" in name:
            read, write, mix = value[:STREAMS], value[STREAMS : 2 * STREAMS], value[2 * STREAMS :]
            square = mix.reshape(STREAMS, STREAMS)[order][:, order]
            moved[name] = np.concatenate([read[order], write[order], square.ravel()])
    return moved


@pytest.mark.parametrize("backend", cases.TRAINERS)
def test_relabelling_streams_everywhere_changes_nothing(backend):
    """Nor do changes care, as long as they name the same streams: new stream i is the old stream ORDER[i]."""
    static = ["variant=mhc", "variant.coefficients=static"]
    values = cases.perturbed(cases.tiny(static))
    one, other = (model(backend, static, v) for v in (values, relabelled(values, ORDER)))
    batch, swapped = cases.batch(), (1, 0, 2, 3)
    conjugate = tuple(ORDER.index(swapped[stream]) for stream in ORDER)
    pairs = [
        (Intervention("ablate", stream=ORDER[1]), Intervention("ablate", stream=1)),
        (Intervention("permute", order=swapped), Intervention("permute", order=conjugate)),
    ]
    assert other[0].evaluate([batch]).loss == pytest.approx(one[0].evaluate([batch]).loss, rel=1e-6)
    for mine, theirs in pairs:
        with one[1].intervened(mine), other[1].intervened(theirs):
            assert other[0].evaluate([batch]).loss == pytest.approx(one[0].evaluate([batch]).loss, rel=1e-6)


@pytest.mark.parametrize("backend", cases.TRAINERS)
def test_a_stream_that_nobody_reads_may_go(backend):
    """Untrained HC: connection k reads stream k mod n, so the fourth of two is summed alone, and the norm divides."""
    config = cases.tiny(["variant=hc", "depth=1"], BACKENDS[backend])
    trainer = cases.TRAINERS[backend](config)
    probe, batch = make_probe(trainer, config), cases.batch()
    plain = trainer.evaluate([batch]).loss
    with probe.intervened(Intervention("ablate", stream=3)):
        assert trainer.evaluate([batch]).loss == pytest.approx(plain, abs=2e-5)
    with probe.intervened(Intervention("ablate", stream=0)):
        assert abs(trainer.evaluate([batch]).loss - plain) > 2e-4


# --- dL/dH_res -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wiring", ["hc", "mhc", "mhc static", "deepseek_v4", "loops"])
def test_the_gradient_of_the_mixing_equals_finite_differences_of_the_reference(wiring, monkeypatch):
    """One direction for all connections and tokens at once, on torch; MLX below."""
    trainer, _, config = model("torch", WIRINGS[wiring])
    batch = cases.batch()
    exact = {name: value.astype(np.float64) for name, value in cases.perturbed(config).items()}
    gradient = trainer.diagnose(batch).mix_gradient
    direction = np.random.default_rng(5).normal(size=gradient.shape)
    original = HOME.coefficients

    def loss(size):
        asked = iter(range(1000))

        def moved(x, *rest):
            read, write, mix = original(x, *rest)
            return read, write, mix + size * direction[next(asked)].reshape(mix.shape)

        with monkeypatch.context() as patch:
            patch.setattr(HOME, "coefficients", moved)
            return reference.loss(exact, config, batch)

    expected = (loss(1e-5) - loss(-1e-5)) / 2e-5
    assert (gradient * direction).sum() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("wiring", WIRINGS)
def test_both_backends_have_the_same_gradient_of_the_mixing(wiring):
    one, other = (model(backend, WIRINGS[wiring])[0].diagnose(cases.batch()).mix_gradient for backend in cases.TRAINERS)
    if wiring == "identity_hc":
        assert one is None
        assert other is None
        return
    assert np.linalg.norm(one - other) <= 1e-4 * np.linalg.norm(one)
