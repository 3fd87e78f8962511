"""What the plan says of memory, against what PyTorch keeps and holds: counted bytes, so the same on every machine."""

from __future__ import annotations

import math

import pytest

from mhc_exp.body.parameters import initial_parameters, is_connection
from mhc_exp.config.compose import compose
from mhc_exp.config.schema import Config
from mhc_exp.data import make_task
from mhc_exp.paths import find
from mhc_exp.planning.activations import Activations, activations
from mhc_exp.planning.parameters import parameter_counts, vocabulary
from mhc_exp.planning.recompute import best_length, block_length, decide, needed
from mhc_exp.torch.memory import Meter, saved_bytes
from mhc_exp.torch.recompute import Policy
from mhc_exp.torch.trainer import TorchTrainer

SHIPPED = sorted(file.stem for file in (find("conf") / "variant").glob("*.yaml"))
EXACT, PEAK = 0.006, 0.15
"""Tolerance of what is kept, and of the peak, relative."""
WIRINGS = {
    "baseline": ["variant=baseline"],
    "rezero": ["variant=rezero"],
    "laurel": ["variant=laurel"],
    "mhc": ["variant=mhc"],
    "mhc eager": ["variant=mhc", "backend.kernels=eager"],
    "mhc eager of 8": ["variant=mhc", "backend.kernels=eager", "variant.streams=8"],
    "mhc static": ["variant=mhc", "variant.coefficients=static"],
    "mhc static eager": ["variant=mhc", "variant.coefficients=static", "backend.kernels=eager"],
    "mhc at block sites": ["variant=mhc", "variant.site=block"],
    "identity_hc": ["variant=identity_hc"],
    "hc": ["variant=hc"],
    "deepseek_v41": ["variant=deepseek_v41"],
    "deepseek_v4 eager": ["variant=deepseek_v4", "backend.kernels=eager"],
    "bfloat16": ["variant=mhc", "backend.dtype=bfloat16"],
    "dropout": ["variant=mhc", "model.dropout=0.1"],
    "other body": ["variant=mhc", "model.activation=swiglu", "model.positions=rotary", "model.norm=rmsnorm"],
}


def _config(*overrides: str) -> Config:
    return compose(["backend=cpu", "backend.threads=1", "depth=4", "training.batch_size=16", *overrides])


def _measured(config: Config) -> tuple[int, int]:
    """Bytes kept after the forward pass, and the largest number of bytes alive in forward and backward pass."""
    task = make_task(config)
    trainer, batch = TorchTrainer(config, task.vocab_size), task.batch(0, config.training.batch_size)
    trainer.model.train()
    supervised = int(batch.mask.sum())
    kept = saved_bytes(lambda: trainer._loss_share(batch, supervised), trainer.parameters.values())
    trainer._loss_share(batch, supervised).backward()  # gradients of parameters are there: the plan counts them apart
    with Meter() as meter:
        trainer._loss_share(batch, supervised).backward()
    return kept, meter.peak


@pytest.mark.parametrize("length", [None, 2, 3])
@pytest.mark.parametrize("wiring", WIRINGS)
def test_predicted_activations_are_those_of_pytorch(wiring: str, length: int | None):
    policy = (
        ["training.recompute=none"]
        if length is None
        else ["training.recompute=block", f"training.recompute_length={length}"]
    )
    config = _config(*WIRINGS[wiring], *policy)
    found = activations(config, 256, native=config.backend.kernels != "eager")
    kept, peak = _measured(config)
    assert found.kept(length) == pytest.approx(kept, rel=EXACT)
    assert found.peak(length) == pytest.approx(peak, rel=PEAK)


@pytest.mark.parametrize("length", [2, 3])
@pytest.mark.parametrize(
    "wiring", ["mhc", "mhc eager", "mhc static", "identity_hc", "hc", "deepseek_v4 eager", "bfloat16"]
)
def test_predicted_peak_where_only_connections_are_computed_again(wiring: str, length: int):
    words = ["training.recompute=connections", f"training.recompute_length={length}"]
    config = _config(*WIRINGS[wiring], *words)
    found = activations(config, 256, native=config.backend.kernels != "eager")
    peak = _measured(config)[1]
    assert found.peak(length, connections=True) == pytest.approx(peak, rel=PEAK)
    assert peak < _measured(_config(*WIRINGS[wiring], "training.recompute=none"))[1]


@pytest.mark.parametrize("wiring", ["baseline", "mhc", "mhc eager"])
def test_recomputation_lowers_what_is_kept_and_the_peak(wiring: str):
    every = _measured(_config(*WIRINGS[wiring], "depth=8", "training.recompute=none"))
    block = _measured(_config(*WIRINGS[wiring], "depth=8", "training.recompute=block"))
    assert block[0] < 0.4 * every[0]
    assert block[1] < 0.6 * every[1]


@pytest.mark.parametrize(
    ("streams", "layers", "length"), [(4, 24, 4), (4, 60, 6), (1, 24, 3), (4, 1, 1), (2, 2, 1), (8, 192, 12)]
)
def test_best_length_is_the_papers(streams: int, layers: int, length: int):
    assert best_length(streams, layers) == length


@pytest.mark.parametrize("streams", [1, 2, 4, 8])
@pytest.mark.parametrize("layers", [12, 48, 192])
def test_best_length_is_next_to_the_minimum_of_the_papers_formula(streams: int, layers: int):
    def memory(length: float) -> float:
        return streams * layers / length + (streams + 2) * length

    exact = math.sqrt(streams * layers / (streams + 2))
    found = best_length(streams, layers)
    assert abs(found - exact) <= 0.5
    assert memory(found) <= min(memory(length) for length in range(1, layers + 1)) * 1.03


def test_the_shortest_peak_is_the_shortest_of_all():
    found = Activations(layer=10.0, layers=12, entering=4.0, head=3.0, working=2.0)
    peaks = {length: found.peak(length) for length in range(1, 13)}
    assert peaks[found.shortest_peak()] == min(peaks.values())
    assert found.peak(12) >= found.peak(found.shortest_peak()) < found.peak(None)


@pytest.mark.parametrize("name", SHIPPED)
def test_parameters_are_counted_without_making_them(name: str):
    config = _config(f"variant={name}")
    sizes = {key: value.size for key, value in initial_parameters(config, 256).items()}
    connections = sum(size for key, size in sizes.items() if is_connection(key))
    assert parameter_counts(config, 256) == (sum(sizes.values()) - connections, connections)


@pytest.mark.parametrize("dataset", ["source_code", "increment", "noisy_increment", "pointer_chasing", "permutation"])
def test_symbols_are_known_without_the_data(dataset: str):
    config = _config(f"dataset={dataset}")
    assert vocabulary(config) == make_task(config).vocab_size


def test_auto_recomputes_what_does_not_fit_and_nothing_else():
    config = _config("variant=mhc", "depth=24")
    found = activations(config, 256, native=True)
    without = needed(config, found, 256, None)
    assert decide(config, 256, True, None).length is None
    assert decide(config, 256, True, int(without / 0.79)).length is None
    tight = decide(config, 256, True, int(without / 0.81))
    assert tight.length == block_length(config) == best_length(4, 48)
    assert tight.text.startswith("blocks of 6 of 48: about ")


def test_auto_keeps_everything_where_nothing_can_be_recomputed():
    assert decide(_config("variant=xhc"), 256, False, 1).length is None
    assert "not in sparse" in decide(_config("variant=xhc"), 256, False, 1).text
    with pytest.raises(ValueError, match="not in sparse"):
        decide(_config("variant=xhc", "training.recompute=block"), 256, False, 1)


def test_a_trainer_on_a_small_machine_recomputes(monkeypatch: pytest.MonkeyPatch):
    config = _config("variant=mhc", "depth=2")
    monkeypatch.setattr("mhc_exp.torch.trainer.memory_bytes", lambda: 2**20)
    assert TorchTrainer(config, 256).model.topology.recompute == Policy(2)
    monkeypatch.undo()
    assert TorchTrainer(config, 256).model.topology.recompute is None
