"""Adapters for architectures that nobody knows, and what cannot be split."""

from __future__ import annotations

import pytest
import torch
from small_models import WIDTH, branch, encoder
from torch import Tensor, nn

from mhc_exp.torch import Adapter, Branch, CannotInject, Residual, eject, inject, is_injected


class Mine(nn.Module):
    """A block of an architecture that nobody knows."""

    def __init__(self):
        super().__init__()
        self.before, self.work = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: Tensor, factor: float = 1.0) -> tuple[Tensor, float]:
        return hidden + self.work(self.before(hidden) * factor), factor


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Mine() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x, factor = block(hidden=x, factor=0.5)
            assert factor == 0.5
        return x


MINE = Adapter(("Mine",), (Branch("before", "work"),), state="hidden")


def test_an_adapter_of_ones_own():
    torch.manual_seed(0)
    model, x = Stack(), torch.randn(2, WIDTH)
    before = model(x)
    inject(model, adapters=[MINE], example=x)
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)


class Wrong(Mine):
    """Adds twice what it makes."""

    def forward(self, hidden: Tensor, factor: float = 1.0) -> tuple[Tensor, float]:
        return hidden + 2 * self.work(self.before(hidden)), factor


def test_an_adapter_that_is_wrong_is_found_out_and_taken_back():
    torch.manual_seed(0)
    model, x = Stack(), torch.randn(2, WIDTH)
    model.blocks = nn.ModuleList(Wrong() for _ in range(3))
    names = list(model.state_dict())
    with pytest.raises(CannotInject, match="blocks are not what their adapter says"):
        inject(model, adapters=[Adapter(("Wrong",), MINE.branches, state="hidden")], example=x)
    assert list(model.state_dict()) == names
    assert not is_injected(model)


@pytest.mark.parametrize("branches", [(), (Branch("norm", "a"), Branch("norm", "b"))])
def test_an_adapter_needs_branches_that_can_be_told_apart(branches):
    with pytest.raises(ValueError, match="begin at submodules of their own"):
        Adapter(("Mine",), branches)


class Lazy(Mine):
    """Does not call what it has."""

    def forward(self, hidden: Tensor, factor: float = 1.0) -> tuple[Tensor, float]:
        return hidden + self.before(hidden), factor


def test_a_block_that_does_not_run_its_branches_is_refused():
    model = Stack()
    model.blocks = nn.ModuleList(Lazy() for _ in range(3))
    inject(model, adapters=[Adapter(("Lazy",), MINE.branches, state="hidden")])
    with pytest.raises(CannotInject, match="ran 0 of its 1 branches"):
        model(torch.randn(2, WIDTH))


def shared() -> nn.Module:
    block = Residual(branch())
    return nn.Sequential(block, block)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU()), "no residual blocks that are known.*Linear, ReLU"),
        (lambda: encoder(norm_first=False), "build it with norm_first=True"),
        (shared, "a block occurs twice"),
        (lambda: nn.Sequential(Residual(nn.Tanh())), r"type inject\(..., width=<C>\)"),
        (lambda: inject(encoder()), r"eject\(model\) takes them out"),
    ],
)
def test_what_cannot_be_split_is_refused(model, said):
    with pytest.raises(CannotInject, match=said):
        inject(model())


def test_a_model_that_is_refused_half_way_is_left_as_it_was():
    model = nn.Sequential(Residual(branch()), Residual(nn.Tanh()))
    names = list(model.state_dict())
    with pytest.raises(CannotInject, match="width"):
        inject(model)
    assert list(model.state_dict()) == names
    assert not is_injected(model)


def test_ejecting_what_was_not_injected_is_refused():
    with pytest.raises(CannotInject, match=r"inject\(model\) puts them in"):
        eject(encoder())
