"""The library around the same branches as lucidrains' hyper-connections: correctness first, then time and memory.

    pip install hyper-connections
    python benchmarks/library_peers.py            # about a minute; [--blocks 12] [--width 256] [--rounds 11]

A stack of pre-norm MLPs, each in a connection, 4 streams, float32, one thread. "same equations" is their
HyperConnections with the paper's LayerNorm for their RMSNorm and with our weights, every one of which is away from its
initial value: outputs and the gradients of the input and of every weight of the branches have to agree with ours, or
nothing is timed. "as shipped" is what their constructor gives: other equations, so it is timed and not compared.
Times are medians of rounds in turns, ratios are to the plain residual in the same round; bytes kept for the backward
pass are counted.
"""

from __future__ import annotations

import argparse
import copy
import importlib
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn

from mhc_exp.allocator import keep_freed_memory
from mhc_exp.benchmarks.agreement import agree
from mhc_exp.benchmarks.measure import interleaved
from mhc_exp.torch import HyperSequential, connection_parameters, connections
from mhc_exp.torch.benchmarks import PEERS, load_hc, peers_missing
from mhc_exp.torch.memory import saved_bytes

STREAMS, BATCH, TIME = 4, 4, 64
TOLERANCE = 1e-4
"""Largest difference between the same equations, both in float32."""


class Residual(nn.Module):
    """x + F(x) in turn."""

    def __init__(self, branches: Iterable[nn.Module]):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        for branch in self.branches:
            x = x + branch(x)
        return x


class Theirs(nn.Module):
    """Their functions, used as their page says: expand, every branch in a connection, reduce."""

    def __init__(self, branches: Iterable[nn.Module], width: int, initialise: str):
        super().__init__()
        package = importlib.import_module(PEERS)
        wrap, self.expand, self.reduce = getattr(package, initialise)(STREAMS)
        self.layers = nn.ModuleList(
            wrap(dim=width, branch=branch, layer_index=index) for index, branch in enumerate(branches)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.expand(x)
        for layer in self.layers:
            x = layer(x)
        return self.reduce(x)


class Step:
    """Forward and backward of a stack; called, and asked what it computes."""

    def __init__(self, stack: nn.Module, x: Tensor):
        self.stack, self.x = stack, x.clone().requires_grad_()

    def __call__(self) -> Tensor:
        self.stack.zero_grad()
        self.x.grad = None
        y = self.stack(self.x)
        y.square().mean().backward()
        return y

    def values(self) -> dict[str, np.ndarray]:
        """Output, and gradients of the input and of the branches' weights."""
        found: dict[str, Tensor | None] = {"output": self().detach(), "input": self.x.grad}
        for name, parameter in self.stack.named_parameters():
            if ".branch." in name:
                found[name.split(".", 1)[1]] = parameter.grad
        return {name: tensor.numpy() for name, tensor in found.items() if tensor is not None}

    def kept(self) -> int:
        return saved_bytes(lambda: self.stack(self.x).square().mean(), self.stack.parameters())


def same_equations(ours: HyperSequential, branches: Iterable[nn.Module], width: int) -> Theirs:
    """Theirs with the weights of `ours`, which is of variant hc."""
    theirs = Theirs(branches, width, "get_init_and_expand_reduce_stream_functions")
    for layer, connection in zip(theirs.layers, connections(ours), strict=True):
        layer.norm = nn.LayerNorm(width, eps=1e-6)
        load_hc(layer, connection)
    return theirs


def stirred(stack: HyperSequential) -> HyperSequential:
    """`stack` with every parameter of its connections away from where it starts."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in connection_parameters(stack):
            parameter += 0.1 * torch.randn(parameter.shape, generator=random)
    return stack


def stacks(blocks: int, width: int) -> tuple[dict[str, nn.Module], str]:
    """All of them by name, and the name of theirs with our equations."""

    def branch() -> nn.Module:
        return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    made = [branch() for _ in range(blocks)]

    def own(variant: str, kernels: str = "auto") -> HyperSequential:
        return stirred(HyperSequential(copy.deepcopy(made), width, STREAMS, variant, kernels=kernels))

    def shipped(initialise: str) -> Callable[[], nn.Module]:
        return lambda: Theirs(copy.deepcopy(made), width, initialise)

    hc, same = own("hc"), "hyper-connections, HC, same equations"
    fastest = hc.connections[0].connection.tier(torch.zeros(1)).name
    found = {
        "plain residual": Residual(copy.deepcopy(made)),
        f"ours, hc, {fastest}": hc,
        "ours, hc, eager": own("hc", "eager"),
        same: same_equations(hc, copy.deepcopy(made), width),
        "hyper-connections, HC, as shipped": shipped("get_init_and_expand_reduce_stream_functions")(),
        f"ours, mhc, {fastest}": own("mhc"),
        "ours, mhc, eager": own("mhc", "eager"),
        "hyper-connections, mHC, as shipped": shipped("mc_get_init_and_expand_reduce_stream_functions")(),
    }
    return found, same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("blocks", 12), ("width", 256), ("rounds", 11)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    missing = peers_missing()
    if missing is not None:
        raise SystemExit(missing)
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    made, same = stacks(options.blocks, options.width)
    x = torch.randn(BATCH, TIME, options.width)
    steps = {name: Step(stack, x) for name, stack in made.items()}
    reference = next(name for name in steps if name.startswith("ours, hc, eager"))
    expected = steps[reference].values()
    differences = {
        name: agree(name, steps[name].values(), expected, TOLERANCE)
        for name in steps
        if name == same or (name.startswith("ours, hc") and name != reference)
    }
    print(f"{options.blocks} blocks of width {options.width}, batch {BATCH} x {TIME}, {options.rounds} rounds\n")
    print("| around the branches | difference | forward and backward (ms) | ratio (low to high) | kept (MB) |")
    print("|---" * 5 + "|")
    rounds = interleaved(steps, options.rounds)
    for name, step in steps.items():
        row = rounds.row(name, "plain residual")
        apart = f"{differences[name]:.1e}" if name in differences else ""
        ratio = f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        print(f"| {name} | {apart} | {row['ms']:.0f} | {ratio} | {step.kept() / 1e6:.1f} |")
    print(f"\nDifference: from {reference!r}, relative, the largest of output and gradients. {rounds.load.text}")


if __name__ == "__main__":
    main()
