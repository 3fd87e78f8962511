"""What `mhc-exp bench` times in PyTorch: one connection around the identity, one Sinkhorn, other people's wrappers.

Axes: N tokens, S streams, C width. Everything here waits for its device.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from mhc_exp.allocator import keep_freed_memory
from mhc_exp.config.schema import Config
from mhc_exp.config.variants import Streams
from mhc_exp.threads import usable_cpus
from mhc_exp.torch.kernels.choice import choose
from mhc_exp.torch.kernels.eager import Eager
from mhc_exp.torch.streams import HyperConnection

PEERS = "hyper_connections"
SEQUENCE = 64
"""Tokens of one sequence, where a peer wants [B S, T, C] instead of [N, S, C]."""


class Connection:
    """One connection of `config` with F = identity, forward and backward: x [N, S, C] -> x' [N, S, C]."""

    def __init__(self, config: Config, tokens: int, width: int, dtype: torch.dtype = torch.float32):
        self.variant, self.device, self.tier = _chosen(config)
        shape = (tokens, self.variant.streams, width)
        self.connection = HyperConnection(self.variant, width).to(self.device, dtype)
        random = np.random.default_rng(0)

        def normal(*sizes: int) -> Tensor:
            return torch.tensor(random.standard_normal(sizes), dtype=dtype, device=self.device)

        with torch.no_grad():
            for name, parameter in self.connection.named_parameters():
                scale = (shape[1] * width) ** -0.5 if name == "weight" else 1.0
                parameter.copy_(scale * normal(*parameter.shape))
        self.x = normal(*shape).requires_grad_()
        self.gradient = normal(*shape)
        self.waiting = torch.full((shape[1], tokens), 1 / shape[1], dtype=dtype, device=self.device)
        """What is read by, where the connection before predicts it."""

    def forward(self) -> Tensor:
        """x'."""
        known = self.tier.prepare([self.connection])[0]
        if self.variant.read_from == "current":
            coefficients, u, x = self.tier.enter(self.connection, self.x, known)
        else:
            coefficients, x = self.tier.predict(self.connection, self.x, known)
            u, x = self.tier.read(x, self.waiting)
        return self.tier.write(x, u, coefficients)

    def __call__(self) -> tuple[Tensor, ...]:
        """x' and the gradients of x and of the parameters."""
        streams = self.forward()
        leaves = [self.x, *self.connection.parameters()]
        found = torch.autograd.grad(streams, leaves, self.gradient, materialize_grads=True, allow_unused=True)
        _wait(self.device)
        return streams, *found

    def values(self) -> dict[str, np.ndarray]:
        """What one call computes, by name."""
        names = ("new streams", "streams", *(name for name, _ in self.connection.named_parameters()))
        return _arrays(dict(zip(names, self(), strict=True)))


class Chart:
    """The chart of `config` on N matrices, and its gradient: logits [S S, N] -> H_res [S, S, N]."""

    def __init__(self, config: Config, tokens: int, dtype: torch.dtype = torch.float32):
        self.variant, self.device, self.tier = _chosen(config)
        streams = self.variant.streams
        random, shape = np.random.default_rng(0), (streams * streams, tokens)
        self.logits, gradient = (
            torch.tensor(random.standard_normal(shape), dtype=dtype, device=self.device) for _ in range(2)
        )
        self.logits.requires_grad_()
        self.gradient = gradient.view(streams, streams, tokens)
        self.made = self._matrices()

    def _matrices(self) -> Tensor:
        return self.tier.mix(self.logits, self.variant.streams, self.variant.mix, 1.0)

    @torch.no_grad()
    def forward(self) -> None:
        """The matrices alone."""
        self._matrices()
        _wait(self.device)

    def backward(self) -> Tensor:
        """The gradient alone, through matrices made before."""
        (found,) = torch.autograd.grad(self.made, self.logits, self.gradient, retain_graph=True)
        _wait(self.device)
        return found

    def values(self) -> dict[str, np.ndarray]:
        """Matrices and gradient."""
        return _arrays({"matrices": self.made, "logits": self.backward()})


class Peer:
    """A wrapper of lucidrains' hyper-connections around the identity, forward and backward."""

    def __init__(self, layer: nn.Module, x: Tensor, gradient: Tensor):
        """`x` and `gradient` are [N, S, C]; N is a multiple of SEQUENCE, or one sequence."""
        self.layer = layer
        self.x, self.gradient = (_folded(tensor) for tensor in (x.detach(), gradient))
        self.x.requires_grad_()
        self.streams = x.shape[1]

    def __call__(self) -> tuple[Tensor, Tensor]:
        """x' and the gradient of x, both [B S, T, C]; gradients of the parameters are computed too."""
        taken, add = self.layer(self.x)
        made = add(taken)
        gradients = torch.autograd.grad(made, [self.x, *self.layer.parameters()], self.gradient, allow_unused=True)
        _wait(self.x.device)
        return made, gradients[0]

    def values(self) -> dict[str, np.ndarray]:
        """The new streams and the gradient of the old ones, [N, S, C]."""
        made, found = self()
        return _arrays({"new streams": _unfolded(made, self.streams), "streams": _unfolded(found, self.streams)})


DOUBLE = torch.float64
"""The precision of what tiers are compared with."""


def peers(hc: Connection) -> Iterator[tuple[str, Peer, bool]]:
    """Name, wrapper on the streams of `hc`, and whether it has the equations and weights of `hc` (variant hc)."""
    package = importlib.import_module(PEERS)
    streams, width = hc.x.shape[1:]
    layer = package.HyperConnections(streams, dim=width, layer_index=0).to(hc.device)
    layer.norm = nn.LayerNorm(width, eps=1e-6, device=hc.device)  # the paper's and ours; theirs is an RMSNorm
    load_hc(layer, hc.connection)
    yield "lucidrains HC", Peer(layer, hc.x, hc.gradient), True
    other = package.mHC(streams, dim=width, layer_index=0).to(hc.device)
    yield "lucidrains mHC", Peer(other, hc.x, hc.gradient), False


def peers_missing() -> str | None:
    """Why there are no peers; None if they can be imported."""
    if importlib.util.find_spec(PEERS) is None:
        return "hyper-connections (lucidrains): not installed; type: pip install hyper-connections"
    return None


@torch.no_grad()
def load_hc(layer: nn.Module, ours: HyperConnection) -> None:
    """Our weights of variant hc in lucidrains' names."""
    values = {name: parameter.detach() for name, parameter in ours.named_parameters()}
    streams = ours.layout.streams
    read, write, mix = values["bias"].split([streams, streams, streams**2])
    theirs = {
        "norm.weight": values["norm.weight"],
        "norm.bias": values["norm.bias"],
        "static_alpha": torch.cat([read[:, None], mix.view(streams, streams)], dim=1),
        "static_beta": write,
        "dynamic_alpha_fn": torch.cat([values["weight"][:1], values["weight"][2:]]).T,
        "dynamic_beta_fn": values["weight"][1],
        "dynamic_alpha_scale": values["scale"][0],
        "dynamic_beta_scale": values["scale"][1],
    }
    for name, value in theirs.items():
        target = layer.get_parameter(name)
        target.copy_(value.reshape(target.shape))


def _chosen(config: Config) -> tuple[Streams, torch.device, Eager]:
    """Wiring, device and tier of a configuration of family streams. Raises kernels.build.Unavailable."""
    assert isinstance(config.variant, Streams)
    device = torch.device("cuda" if config.backend.name == "cuda" else "cpu")
    torch.set_num_threads(config.backend.threads or usable_cpus())
    if device.type == "cpu":  # as in a run
        keep_freed_memory()
    return config.variant, device, choose(config, device).tier


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _folded(x: Tensor) -> Tensor:
    """[N, S, C] -> [B S, T, C]."""
    tokens, streams, width = x.shape
    time = SEQUENCE if tokens % SEQUENCE == 0 else tokens
    return x.view(-1, time, streams, width).transpose(1, 2).reshape(-1, time, width).contiguous()


def _unfolded(x: Tensor, streams: int) -> Tensor:
    """[B S, T, C] -> [N, S, C]."""
    return x.view(-1, streams, *x.shape[1:]).transpose(1, 2).reshape(-1, streams, x.shape[2])


def _arrays(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
