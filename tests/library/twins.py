"""The same small branches in PyTorch and in MLX, and both kinds of numbers compared: for the tests of two libraries."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import torch
from mlx import nn as mlx_nn
from mlx.utils import tree_flatten
from torch import nn as torch_nn

WIDTH = 8


class TorchBranch(torch_nn.Module):
    """tanh(linear(norm(x))), or without the norm."""

    def __init__(self, inputs: int = WIDTH, outputs: int = WIDTH, norm: bool = True):
        super().__init__()
        self.norm = torch_nn.LayerNorm(inputs) if norm else torch_nn.Identity()
        self.linear = torch_nn.Linear(inputs, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.norm(x)).tanh()


class MLXBranch(mlx_nn.Module):
    """The same."""

    def __init__(self, inputs: int = WIDTH, outputs: int = WIDTH, norm: bool = True):
        super().__init__()
        self.norm = mlx_nn.LayerNorm(inputs) if norm else mlx_nn.Identity()
        self.linear = mlx_nn.Linear(inputs, outputs)

    def __call__(self, x: mx.array) -> mx.array:
        return mx.tanh(self.linear(self.norm(x)))


def flat(tree: Any) -> dict[str, np.ndarray]:
    """Parameters or gradients of MLX by dotted name."""
    return {name: np.array(value) for name, value in tree_flatten(tree)}


def stirred(module: torch_nn.Module) -> torch_nn.Module:
    """With every parameter away from its initial value."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=random)
    return module


def take_over(ours: mlx_nn.Module, theirs: torch_nn.Module) -> None:
    """Give an MLX module the parameters of a PyTorch module, which have to have the same names."""
    ours.load_weights([(name, mx.array(value.detach().numpy())) for name, value in theirs.named_parameters()])


def same_outputs_and_gradients(ours: mlx_nn.Module, theirs: torch_nn.Module, x: np.ndarray) -> None:
    """Outputs and gradients of the sum of squared outputs, for every parameter, to 1e-5 of the largest number."""
    output = theirs(torch.from_numpy(x))
    names, parameters = zip(*theirs.named_parameters(), strict=True)
    expected = dict(zip(names, torch.autograd.grad(output.square().sum(), parameters), strict=True))

    def loss(x: mx.array) -> mx.array:
        return mx.square(ours(x)).sum()

    found = flat(mlx_nn.value_and_grad(ours, loss)(mx.array(x))[1])
    np.testing.assert_allclose(np.array(ours(mx.array(x))), output.detach().numpy(), rtol=1e-5, atol=1e-5)
    assert found.keys() == expected.keys()
    size = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value.numpy(), rtol=0, atol=1e-5 * size, err_msg=name)
