"""Connections watched in a plain loop: the rows are the laboratory's, the training is not touched."""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mhc_exp.analysis.rows import read_layers, read_records
from mhc_exp.topology import watched
from mhc_exp.topology.diagnosis import Diagnosis, HistoryDiagnosis, per_connection, summarise
from mhc_exp.topology.history.reads import Read
from mhc_exp.torch import (
    HyperSequential,
    MHCSequential,
    Residual,
    Watch,
    connections,
    inject,
    inject_mhc,
)
from mhc_exp.torch.diagnosis import gram
from mhc_exp.torch.library.stacks import stacks

WIDTH = 8


def branch() -> nn.Module:
    return nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Tanh())


def injected(blocks: int = 3) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, WIDTH), *(Residual(branch()) for _ in range(blocks)), nn.Linear(WIDTH, 2))
    return inject(model, "mhc", streams=4, kernels="eager", init="lite_repo")


def several() -> nn.Module:
    torch.manual_seed(0)
    remembering = MHCSequential([branch() for _ in range(5)], max_history=3, mode="mhc", constraint="simplex")
    return nn.Sequential(nn.Linear(5, WIDTH), remembering, HyperSequential([branch(), branch()], WIDTH, variant="hc"))


def batch(step: int) -> Tensor:
    return torch.randn(12, 5, generator=torch.Generator().manual_seed(step))


def train(model: nn.Module, steps: int, watch: Watch | None = None) -> list[Tensor]:
    """Losses, and the parameters afterwards."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        if watch is None:
            loss = model(batch(step)).square().mean()
            loss.backward()
        else:
            with watch.step() as row:
                row["train/loss"] = loss = model(batch(step)).square().mean()
                loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return [*losses, *(parameter.detach() for parameter in model.parameters())]


@pytest.mark.parametrize("build", [injected, several])
def test_watching_changes_no_bit_of_the_training(build, tmp_path):
    model, watched_model = build(), build()
    expected = train(model, 5)
    assert all(torch.isfinite(one).all() for one in expected)
    watch = Watch(watched_model, tmp_path, every=2)
    found = train(watched_model, 5, watch)
    assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))
    assert [row["step"] for stack in watch._places() for row in read_records(stack).rows] == [0, 2, 4] * len(
        watch.stacks
    )


def test_rows_are_those_of_the_laboratory_for_what_the_model_did(tmp_path):
    """Recomputed from the streams that a second pass shows, by the functions that make the rows of a run."""
    model, x = injected(), batch(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    watch = Watch(model, tmp_path)
    with watch.step() as row:
        row["train/loss"] = loss = model(x).square().mean()
        loss.backward()
    seen = []
    for one in connections(model):
        one.observe = lambda coefficients, streams: seen.append((coefficients, streams.detach()))
    model(x)
    expected = Diagnosis(
        mix=np.stack([c.mix.detach().permute(2, 0, 1).numpy() for c, _ in seen]),
        read=np.stack([c.read.detach().t().numpy() for c, _ in seen]),
        write=np.stack([c.write.detach().t().numpy() for c, _ in seen]),
        gram=np.stack([gram(streams).numpy() for _, streams in seen]),
    )
    (found,), (line,) = read_records(tmp_path).rows, read_layers(tmp_path)
    for name, value in summarise(expected).items():
        assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    for name, values in per_connection(expected).items():
        assert line[name] == pytest.approx(values, rel=1e-4, abs=1e-5), name
    assert line["mix/mean_2_1"] == pytest.approx(expected.mix.mean(1)[:, 2, 1].tolist(), rel=1e-4)
    assert found["train/loss"] == loss.item()
    assert found["train/grad_norm"] == float(nn.utils.get_total_norm([p.grad for p in model.parameters()]))


def test_gradients_are_those_of_the_parameters_and_of_what_is_handed_on(tmp_path):
    model = injected()
    watch = Watch(model, tmp_path)
    kept: list[Tensor] = []
    with watch.step():
        hooks = [one.register_forward_hook(lambda *call: kept.append(call[-1])) for one in list(model)[1:3]]
        output = model(batch(0)).square().mean()
        for streams in kept:
            streams.retain_grad()
        output.backward()
    assert len(hooks) == 2
    (line,) = read_layers(tmp_path)
    assert line["grad/flow"][:2] == pytest.approx([float(one.grad.norm()) for one in kept], rel=1e-5)
    scales = [float(one.scale.grad.norm()) for one in connections(model)]
    assert line["grad/scale"] == pytest.approx(scales, rel=1e-5)
    assert len(line["grad/tangent_share"]) == 3


def test_histories_and_streams_have_a_directory_each(tmp_path):
    model = several()
    watch = Watch(model, tmp_path)
    train(model, 1, watch)
    history, streams = (tmp_path / stack.name for stack in watch.stacks)
    (line,) = read_layers(history)
    weights = [one.weights().tolist() for one in model[1].connections]
    assert line["history/weight_0"] == [1.0, *(pytest.approx(w[-1], rel=1e-2) for w in weights[1:3]), None, None]
    assert all(0 < share < 1 for share in line["history/contribution"])
    assert "mix/diagonal" in read_layers(streams)[0]
    assert "gain/forward_amax_max" in read_records(streams).rows[0]
    assert read_records(history).rows[0]["train/loss"] == read_records(streams).rows[0]["train/loss"]


def test_a_watch_in_eval_mode_reports_no_gradients_of_an_earlier_step(tmp_path):
    model = injected()
    model(batch(0)).sum().backward()
    watch = Watch(model.eval(), tmp_path)
    with watch.step(), torch.no_grad():
        model(batch(1))
    row = read_records(tmp_path).rows[0]
    assert "gain/forward_amax_max" in row
    assert not [name for name in row if name.startswith(("grad/", "train/"))]


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputed_blocks_are_seen_once_and_their_gradients_too(reentrant, tmp_path):
    def run(model: nn.Module, x: Tensor) -> Tensor:
        recomputed = torch.utils.checkpoint.checkpoint(model[1:], model[0](x), use_reentrant=reentrant)
        return recomputed.square().mean()

    plain, model = injected(), injected()
    run(plain, batch(0)).backward()
    watch = Watch(model, tmp_path / "recomputed")
    with watch.step():
        run(model, batch(0)).backward()
    pairs = zip(model.parameters(), plain.parameters(), strict=True)
    assert all(torch.equal(one.grad, two.grad) for one, two in pairs)
    whole = injected()
    with (other := Watch(whole, tmp_path / "kept")).step():
        whole(batch(0)).square().mean().backward()
    assert other.next == 1
    assert read_layers(tmp_path / "recomputed") == read_layers(tmp_path / "kept")


def test_the_parts_of_an_accumulated_batch_are_one_step(tmp_path):
    model = injected()
    watch = Watch(model, tmp_path)
    with watch.step():
        for part in batch(0).split(4):
            model(part).square().mean().backward()
    (line,) = read_layers(tmp_path)
    assert len(line["mix/diagonal"]) == 3
    assert line["grad/scale"] == pytest.approx([float(one.scale.grad.norm()) for one in connections(model)], rel=1e-5)


@pytest.mark.filterwarnings("ignore")  # of the compiler about itself
def test_a_compiled_model_runs_its_watched_steps_without_the_compiler(tmp_path):
    runs = []

    def backend(graph, inputs):
        return lambda *arguments: (runs.append(1), graph.forward(*arguments))[1]

    model = injected()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    watch = Watch(compiled, tmp_path, every=2)
    train(compiled, 4, watch)
    assert [row["step"] for row in read_records(tmp_path).rows] == [0, 2]
    assert len(runs) == 2  # steps 1 and 3
    assert watch.stacks[0].name == "Sequential"


def test_nothing_stays_on_the_model(tmp_path):
    model = injected()
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    hooks = {name: len(module._forward_hooks) for name, module in model.named_modules()}
    watch = Watch(model, tmp_path)
    train(model, 1, watch)
    with contextlib.suppress(KeyboardInterrupt), watch.step():
        model(batch(0))
        raise KeyboardInterrupt
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before
    assert {name: len(module._forward_hooks) for name, module in model.named_modules()} == hooks
    pickle.dumps(copy.deepcopy(model))
    assert [row["step"] for row in read_records(tmp_path).rows] == [0]


def test_a_row_is_in_the_file_as_soon_as_its_step_is_over(tmp_path):
    model = injected()
    watch = Watch(model, tmp_path, every=1)
    for step in range(2):
        with watch.step():
            model(batch(step))
        assert [row["step"] for row in read_records(tmp_path).rows] == list(range(step + 1))  # nothing was closed


def test_a_watch_goes_on_after_a_crash_and_repeats_steps(tmp_path):
    first = Watch(injected(), tmp_path, every=1)
    train(first.model, 3, first)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 3, "train/lo')
    with pytest.raises(ValueError, match=r"holds a watch up to step 2; .*step=<the first step>"):
        Watch(injected(), tmp_path)
    second = Watch(injected(), tmp_path, every=1, step=2)
    train(second.model, 2, second)
    assert [row["step"] for row in read_records(tmp_path).rows] == [0, 1, 2, 3]


def test_numbers_of_ones_own_join_the_row_of_their_step(tmp_path):
    model = injected()
    watch = Watch(model, tmp_path, every=2)
    watch.log(0, {"val/loss": torch.tensor(3.0)})
    train(model, 1, watch)
    watch.log(0, {"val/accuracy": 0.5})
    watch.log(1, {"val/loss": float("nan")})
    zero, one = read_records(tmp_path).rows
    assert (zero["val/loss"], zero["val/accuracy"]) == (3.0, 0.5)
    assert "gain/forward_amax_max" in zero
    assert one == {"step": 1, "nonfinite": "val/loss=nan"}


def test_of_several_processes_the_first_one_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    model = injected()
    watch = Watch(model, tmp_path / "none", every=1)
    train(model, 1, watch)
    watch.close()
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda place: Watch(nn.Linear(2, 2), place), "no connections to watch; inject"),
        (lambda place: Watch(injected(), place, every=0), "every=0"),
        (lambda place: Watch(injected(), Path(__file__).parent), "holds other files and no watch"),
        (lambda place: (Watch(injected(), place), Watch(injected(4), place)), "a model with other connections"),
    ],
)
def test_what_cannot_be_watched_is_refused_with_a_reason(spoil, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        spoil(tmp_path)


def test_a_step_without_a_forward_pass_and_two_at_once_are_refused(tmp_path):
    model = injected()
    watch, other = Watch(model, tmp_path / "a", every=1), Watch(model, tmp_path / "b")
    with pytest.raises(RuntimeError, match="no connection ran in step 0"), watch.step():
        pass
    with pytest.raises(ValueError, match="'train/loss'"), watch.step() as row:
        row["train/loss"] = model(batch(0))
    watch.begin()
    with pytest.raises(RuntimeError, match="being watched already"):
        watch.begin()
    with pytest.raises(RuntimeError, match="another Watch"):
        other.begin()


def test_stacks_begin_where_streams_do():
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {
            "encoder": inject(nn.Sequential(*(Residual(branch()) for _ in range(2))), "hc"),
            "decoder": inject(nn.Sequential(*(Residual(branch()) for _ in range(3))), "hc"),
            "tail": inject_mhc(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)), nn.Linear, example=torch.ones(1, 4)),
        }
    )
    found = {stack.name: (stack.kind, len(stack.connections), stack.labels) for stack in stacks(model)}
    assert found == {
        "encoder": ("streams", 2, ("0", "1")),
        "decoder": ("streams", 3, ("0", "1", "2")),
        "tail": ("history", 2, ("0", "1")),
    }


def test_a_connection_that_did_not_run_has_no_numbers():
    """The specification of a line: places of those that ran, None elsewhere and for what is not finite."""
    reads = [Read(0, (0,), 1), Read(2, (2, 1), 1)]
    diagnosis = HistoryDiagnosis(reads, [np.ones((1, 1, 1)), np.array([[[0.75], [0.25]]])])
    line = watched.line(diagnosis, [0, 2], 3, {"grad/flow": [float("nan"), 1 / 3], "history/contribution": []})
    assert line["history/weight_2"] == [None, None, 0.75]
    assert line["history/largest"] == [1.0, None, 0.75]
    assert line["grad/flow"] == [None, None, 0.333333]
    assert "history/contribution" not in line
    assert watched.share(3.0, 1.0) == 0.75
    assert np.isnan(watched.share(0.0, 0.0))


def test_the_file_says_what_is_watched(tmp_path):
    Watch(several(), tmp_path, every=7)
    facts = json.loads((tmp_path / "watch.json").read_text())
    assert (facts["model"], facts["every"]) == ("Sequential", 7)
    assert [(one["kind"], one["variant"]) for one in facts["stacks"]] == [("history", "simplex"), ("streams", "hc")]
