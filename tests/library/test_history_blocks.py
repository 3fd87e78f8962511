"""Mixing of the last states: the laboratory's `history`, without the six defects of the package `mhc` 0.5.5.

They are: skips that are detached; a history that outlives its call; a doubly stochastic matrix that cannot be reached
and of which one row is used; injected modules that see a history of one state and take one argument; recomputation that
runs the last module for every layer; projections that are made after the optimizer.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from mhc_exp.config import named
from mhc_exp.topology.history.mixing import values
from mhc_exp.torch import CannotInject, HistoryConnection, MHCSequential, eject_mhc, inject_mhc
from mhc_exp.torch.history.mixing import HistoryMixing

WIDTH = 6


def readme_modules() -> list[nn.Module]:
    """The 30-second example of that package."""
    return [nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32)]


def layers(count: int = 5) -> list[nn.Module]:
    return [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(count)]


def stirred(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "logits" in name:
                parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
    return module


@pytest.mark.parametrize("constraint", ["simplex", "identity", "doubly_stochastic"])
def test_a_sequence_is_the_laboratorys_wiring(constraint):
    torch.manual_seed(0)
    modules, x = layers(6), torch.randn(2, 3, WIDTH)
    own = {"identity": "identity_preserving"}.get(constraint, constraint)
    spec = named.variant("history", {"constraint": own})
    wiring = HistoryMixing(spec, WIDTH, 3)
    start = values(spec, WIDTH, 3, 0)
    wiring.load_state_dict({name.removeprefix("topology."): torch.as_tensor(v) for name, v in start.items()})
    sequence = MHCSequential(modules, constraint=constraint)
    for one, two in zip(sequence.connections, wiring.connections, strict=True):
        if two.logits is not None:
            noise = torch.randn(two.logits.shape)
            two.logits.data += noise
            one.mixing.logits.data += noise
    torch.testing.assert_close(sequence(x), wiring(x, modules))


def test_the_readme_example_runs_and_is_what_it_says():
    torch.manual_seed(0)
    model = stirred(MHCSequential(readme_modules(), max_history=4, mode="mhc", constraint="simplex"))
    x = torch.randn(8, 64)
    states = [x]
    for connection in model.connections:
        y, window = connection.branch(states[0]), states[:4]
        if y.shape != x.shape:
            window = [connection.projections[str(age)](state) for age, state in enumerate(window)]
        a = connection.weights()
        states.insert(0, sum((a[k] * state for k, state in enumerate(window)), start=y))
    torch.testing.assert_close(model(x), states[0], rtol=1e-5, atol=1e-5)


def test_defect_1_gradients_pass_through_every_skip():
    """With dead branches the output is the input, and so is its gradient."""
    model = MHCSequential(layers(8), constraint="simplex")
    for parameter in model.parameters():
        if parameter.dim() >= 2:
            nn.init.zeros_(parameter)
    for one in model.connections:
        nn.init.zeros_(one.branch[0].bias)
    x = torch.randn(3, WIDTH, requires_grad=True)
    model(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(3, WIDTH))


def test_defect_1_every_weight_of_the_mixing_learns():
    torch.manual_seed(0)
    model = stirred(MHCSequential(layers(6)))
    model(torch.randn(4, WIDTH)).square().sum().backward()
    assert all(one.mixing.logits.grad.abs().min() > 1e-7 for one in model.connections[1:])


@pytest.mark.parametrize("injected", [False, True])
def test_defect_2_nothing_is_kept_between_calls(injected):
    torch.manual_seed(0)
    model = nn.Sequential(*layers()) if injected else MHCSequential(layers())
    if injected:
        inject_mhc(model, nn.Linear, example=torch.randn(2, WIDTH))
    stirred(model)
    x = torch.randn(4, WIDTH)
    alone = model(x)
    model(torch.randn(7, WIDTH))
    assert torch.equal(model(x), alone)
    tensors = [value for part in model.modules() for value in vars(part).values() if isinstance(value, Tensor | list)]
    assert tensors == []


def test_defect_3_the_whole_doubly_stochastic_matrix_is_used():
    torch.manual_seed(0)
    model = stirred(MHCSequential(layers(6), constraint="doubly_stochastic", iterations=300))
    model(torch.randn(4, WIDTH)).square().sum().backward()
    inner = model.connections[3].mixing.logits
    assert inner.shape == (4, 4)
    assert (inner.grad.abs().amax(1) > 1e-8).all()
    matrix = model.connections[3].mixing.matrix(inner)
    torch.testing.assert_close(matrix.sum(1), torch.ones(4))
    torch.testing.assert_close(matrix.sum(0), torch.ones(4), rtol=1e-3, atol=1e-3)


class Pair(nn.Module):
    """Keywords and a tuple, like attention in a transformer."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, *, scale: float = 1.0) -> tuple[Tensor, int]:
        return scale * self.linear(x), 7


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.pairs = nn.ModuleList(Pair() for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        for pair in self.pairs:
            x, seven = pair(x, scale=0.5)
            assert seven == 7
        return x


class Unused(nn.Module):
    """Has a layer that it never calls."""

    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_defect_4_injected_modules_share_one_history_and_keep_their_arguments():
    torch.manual_seed(0)
    model, x = Model(), torch.randn(3, WIDTH)
    pairs = copy.deepcopy(model.pairs)
    stirred(inject_mhc(model, Pair, max_history=3, example=x))
    states = [x]
    for pair, injected in zip(pairs, model.pairs, strict=True):
        a, y = injected.history_connection.weights(), pair(states[0], scale=0.5)[0]
        states.insert(0, sum((weight * state for weight, state in zip(a, states, strict=False)), start=y))
    assert [len(pair.history_connection.weights()) for pair in model.pairs] == [1, 2, 3, 3, 3]
    torch.testing.assert_close(model(x), states[0], rtol=1e-5, atol=1e-5)


def test_defect_5_recomputation_runs_the_right_layers():
    torch.manual_seed(0)
    modules = [nn.Sequential(*layers(1), nn.Dropout(0.3)) for _ in range(5)]
    found = []
    for checkpoint in (False, True):
        model = stirred(MHCSequential(modules, checkpoint=checkpoint))
        torch.manual_seed(1)
        loss = model(torch.randn(4, WIDTH)).square().sum()
        found.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    assert len(found[0]) > 10
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


@pytest.mark.parametrize("how", ["read off", "declared", "traced"])
def test_defect_6_projections_exist_before_the_optimizer(how):
    known = {
        "read off": {},
        "declared": {"shapes": [(64,)] * 5 + [(32,)]},
        "traced": {"example": torch.randn(2, 64)},
    }
    model = MHCSequential(readme_modules(), **known[how])
    before = {name for name, _ in model.named_parameters()}
    model(torch.randn(8, 64)).sum().backward()
    assert {name for name, _ in model.named_parameters()} == before
    assert {name for name in before if "projections" in name} == {
        f"connections.4.projections.{age}.weight" for age in range(4)
    }
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_defect_6_convolutions_of_a_network_with_other_sizes():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, padding=1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip
    image = torch.randn(2, 3, 9, 9)
    names, alone = list(model.state_dict()), model.eval()(image)
    inject_mhc(model, target_types=nn.Conv2d, max_history=4, example=image)
    assert set(names) < set(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    model.train()
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(image), torch.tensor([1, 4]))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    eject_mhc(model)
    assert list(model.state_dict()) == names
    assert model.eval()(image).shape == alone.shape


def test_images_and_sequences_of_one_shape():
    modules = [nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)]
    assert MHCSequential(modules)(torch.randn(2, 4, 5, 5)).shape == (2, 4, 5, 5)


def test_the_modes_of_the_package():
    torch.manual_seed(0)
    modules, x = layers(3), torch.randn(2, WIDTH)
    plain = x
    for module in modules:
        plain = plain + module(plain)
    torch.testing.assert_close(MHCSequential(modules, mode="residual")(x), plain)
    free, bound = MHCSequential(modules, mode="hc", constraint="identity"), MHCSequential(modules)
    torch.testing.assert_close(free(x), bound(x))
    with pytest.raises(ValueError, match="HyperSequential"):
        MHCSequential(modules, mode="streams")


def test_gates_temperature_and_noise():
    torch.manual_seed(0)
    modules, x = layers(4), torch.randn(2, WIDTH)
    plain = MHCSequential(modules)(x)
    torch.testing.assert_close(MHCSequential(modules, gate=True, temperature=0.5)(x), plain)
    gated = MHCSequential(modules, gate=True)
    gated(x).sum().backward()
    assert all(one.gate.grad.abs() > 0 for one in gated.connections)
    noisy = MHCSequential(modules, stochastic=True)
    assert not torch.equal(noisy(x), noisy(x))
    torch.testing.assert_close(noisy.eval()(x), plain)


def test_pruned_states_are_gone_and_stay_gone():
    torch.manual_seed(0)
    model, x = MHCSequential(layers(5)), torch.randn(2, WIDTH)
    for one in model.connections[1:]:
        with torch.no_grad():
            one.mixing.logits[1] = -20
    before = model(x)
    assert model.prune(1e-6) == 4
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)
    assert all(one.weights()[1] == 0 for one in model.connections[1:])
    again = MHCSequential(layers(5))
    again.load_state_dict(model.state_dict())
    assert [one.kept for one in again.connections] == [one.kept for one in model.connections]
    assert torch.equal(again(x), model(x))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: MHCSequential(layers(), constraint="doubly_stochastic").prune(0.1), "no state to leave out"),
        (lambda: MHCSequential(readme_modules(), constraint="doubly_stochastic"), "needs one shape"),
        (lambda: MHCSequential([nn.Flatten(), *layers()])(torch.randn(2, 1, WIDTH)), "pass `shapes` or `example`"),
        (lambda: MHCSequential(layers(), shapes=[(3,)]), "6 in all; got 1"),
        (lambda: HistoryConnection(nn.Identity(), layer_index=2)([torch.zeros(1)]), "layer_index is the number"),
        (lambda: inject_mhc(Model(), nn.Conv2d, example=torch.zeros(1, WIDTH)), "has no modules of type Conv2d"),
        (lambda: inject_mhc(Model(), (Pair, nn.Linear), example=torch.zeros(1, WIDTH)), "contain other targets"),
        (lambda: inject_mhc(Unused(), nn.Linear, example=torch.zeros(1, WIDTH)), "no module of type Linear ran"),
    ],
)
def test_what_cannot_be_is_answered(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_a_target_that_runs_on_its_own_is_refused():
    model = inject_mhc(Model(), Pair, example=torch.zeros(1, WIDTH))
    with pytest.raises(RuntimeError, match="outside a call of the model"):
        model.pairs[0](torch.zeros(1, WIDTH))
    with pytest.raises(CannotInject, match="eject_mhc"):
        inject_mhc(model, Pair, example=torch.zeros(1, WIDTH))
