"""What the comparisons with other people's packages share: their code, sublayers for both sides, and the comparison.

The same parameters go into our specification (numpy), into our PyTorch wiring and into their code: theirs is called
with its weights written as functions of ours, so that autograd gives both gradients under our names.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from mhc_exp.config.variants import Variant
from mhc_exp.topology import reference
from mhc_exp.topology.layout import parameter_shapes
from mhc_exp.torch.topology import build

STREAMS, WIDTH = 4, 16

Leaves = Mapping[str, Tensor]
Theirs = Callable[[Tensor, Leaves], Tensor]
"""Their final hidden state from the embedding [B, T, C] and our parameters."""


def theirs(package: str, file: str) -> ModuleType:
    """One file of an installed package as a module, without importing the package (which may ask for a GPU)."""
    location = importlib.util.find_spec(package)
    assert location is not None, f"{package} is not installed; type: make independent"
    assert location.origin is not None
    name = f"{package}_{file}".replace("/", "_").removesuffix(".py")
    spec = importlib.util.spec_from_file_location(name, Path(location.origin).parent / file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def imported(name: str) -> ModuleType:
    """A module of an installed package; what it warns of while it is imported is not about us."""
    assert importlib.util.find_spec(name.partition(".")[0]) is not None, f"{name} is not installed: make independent"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


class Branch:
    """A sublayer for PyTorch: F(x) = inner(norm(x)); an attention may also have project and attend."""

    def __init__(
        self,
        inner: Callable[[Tensor], Tensor],
        norm: Callable[[Tensor], Tensor] = lambda x: x,
        project: Callable[..., tuple[Tensor, ...]] | None = None,
        attend: Callable[..., Tensor] | None = None,
    ):
        self.inner, self.norm, self.project, self.attend = inner, norm, project, attend

    def __call__(self, x: Tensor) -> Tensor:
        return self.inner(self.norm(x))


class InNumpy:
    """The same sublayer for the specification."""

    def __init__(self, branch: Branch):
        self.branch = branch

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self._numpy(self.branch, x)

    def norm(self, x: np.ndarray) -> np.ndarray:
        return self._numpy(self.branch.norm, x)

    def inner(self, x: np.ndarray) -> np.ndarray:
        return self._numpy(self.branch.inner, x)

    def project(self, *inputs: np.ndarray) -> Any:
        return self._numpy(self.branch.project, *inputs)

    def attend(self, *inputs: np.ndarray) -> np.ndarray:
        return self._numpy(self.branch.attend, *inputs)

    @staticmethod
    def _numpy(function: Any, *inputs: np.ndarray) -> Any:
        found = function(*(torch.from_numpy(np.ascontiguousarray(x)) for x in inputs))
        return tuple(map(_array, found)) if isinstance(found, tuple) else _array(found)


def _array(x: Tensor) -> np.ndarray:
    return x.detach().numpy()


def linear(random: np.random.Generator, width: int = WIDTH) -> Branch:
    """tanh(x W) with a random W."""
    matrix = torch.from_numpy(random.normal(size=(width, width)) / width**0.5)
    return Branch(lambda x: torch.tanh(x @ matrix))


def connection(variant: Any, random: np.random.Generator, index: int = 0) -> dict[str, np.ndarray]:
    """Random parameters of one stream connection, named as in the model."""
    shapes = parameter_shapes(variant, WIDTH)
    return {f"topology.connections.{index}.{name}": random.normal(size=shape) for name, shape in shapes.items()}


def named(shapes: Mapping[str, tuple[int, ...]], random: np.random.Generator, prefix: str) -> dict[str, np.ndarray]:
    """Random parameters of the shapes, `prefix` before their names."""
    return {prefix + name: random.normal(size=shape) for name, shape in shapes.items()}


def own(parameters: Mapping[str, Any], index: int = 0) -> dict[str, Any]:
    """Parameters of one connection."""
    return below(f"topology.connections.{index}.", parameters)


def below(prefix: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}


def single(value: Any) -> Tensor:
    return torch.from_numpy(np.asarray(value, np.float32))


class Agreement(NamedTuple):
    """How far two sides are apart."""

    output: float
    """Largest absolute difference of what was compared."""
    size: float
    """Largest absolute value of it."""
    gradient: float | None = None
    """Largest difference of gradients, relative to the largest entry of the parameter's gradient."""

    def within(self, tolerance: float) -> bool:
        """Both differences, relative to the sizes."""
        return self.output <= tolerance * self.size and (self.gradient is None or self.gradient <= tolerance)


Digits = Callable[[str, str, str, str, Agreement], None]


def apart(ours: Any, theirs: Any) -> Agreement:
    """How far two arrays are apart."""
    one, other = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert one.shape == other.shape
    return Agreement(float(np.abs(one - other).max()), float(np.abs(other).max()))


def agreement(
    variant: Variant, branches: Sequence[Branch], parameters: Mapping[str, np.ndarray], code: Theirs, x0: np.ndarray
) -> Agreement:
    """Their output against our specification's and our PyTorch wiring's, and their gradients with respect to the
    embedding and every parameter of ours against those of our PyTorch wiring; all in float64 unless they cast.
    """
    leaves = {name: torch.from_numpy(value).requires_grad_() for name, value in parameters.items()}
    x = torch.from_numpy(x0).requires_grad_()
    wiring = build(variant, x0.shape[-1], -(-len(branches) // 2)).double()
    ours = functional_call(wiring, below("topology.", leaves), (x, list(branches)))
    expected = code(x, leaves)
    specified = reference.forward(x0, [InNumpy(branch) for branch in branches], parameters, variant)
    outputs = [apart(found, _array(expected)) for found in (specified, _array(ours))]
    toward = torch.from_numpy(np.random.default_rng(1).normal(size=x0.shape))
    one, other = (_gradients(side, [x, *leaves.values()], toward) for side in (ours, expected))
    size = max(float(g.abs().max()) for g in other)
    assert size > 0
    differences = [
        float((g - h).abs().max() / h.abs().max().clamp(min=1e-6 * size)) for g, h in zip(one, other, strict=True)
    ]
    return Agreement(max(found.output for found in outputs), outputs[0].size, max(differences))


def _gradients(output: Tensor, leaves: Sequence[Tensor], toward: Tensor) -> Sequence[Tensor]:
    return torch.autograd.grad((output * toward).sum(), leaves, allow_unused=True, materialize_grads=True)


def called(module: nn.Module, weights: Mapping[str, Tensor], *inputs: Any) -> Any:
    """`module` on the inputs with these weights instead of its own."""
    unknown = set(weights) - {name for name, _ in module.named_parameters()}
    assert not unknown, f"no parameters of theirs: {sorted(unknown)}"
    return functional_call(module, dict(weights), inputs)


class Method(nn.Module):
    """A method of a module as a module of its own, `module.` before the names of parameters, for `called`."""

    def __init__(self, module: nn.Module, name: str):
        super().__init__()
        self.module, self.name = module, name

    def forward(self, *inputs: Any) -> Any:
        return getattr(self.module, self.name)(*inputs)
