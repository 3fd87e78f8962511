"""Initial values of stream connections: named presets, because no paper but HC publishes its own.

A preset states the static coefficients (raw, before the activation or chart) and the spread of the projection. Its
source is stated beside it; what each one implies is in docs/variants.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mhc_exp import rng
from mhc_exp.config.variants import Streams
from mhc_exp.topology.charts import initial_logits
from mhc_exp.topology.layout import parameter_shapes, readout_shapes

Vector = Callable[[int, int], np.ndarray]
"""(streams, index of the connection) -> raw coefficients."""


@dataclass(frozen=True)
class Preset:
    """Initial raw coefficients of a connection."""

    source: str
    read: Vector
    write: Vector
    mix: tuple[float, float]
    """Logits of H_res where the identity wants weight, and elsewhere (topology.charts fills each chart with them)."""
    weight_std: float = 0.0
    """Standard deviation of the projection weights; zero in most presets, so that step 0 is static."""
    by_fan_in: bool = False
    """Whether `weight_std` is divided by the root of the number of inputs of the projection."""
    unit_write: bool = False
    """Every stream receives exactly one F at step 0 (needed to equal the pre-norm residual)."""
    unit_read: bool = False
    """Read weights of two streams or more sum to one at step 0, so that not even a norm is needed to absorb them."""
    separates: bool = False
    """Streams differ after the first connection already, before any training."""

    def bound(self, inputs: int) -> float:
        """Largest initial weight of a projection from this many numbers."""
        return self.weight_std * (3 / inputs if self.by_fan_in else 3) ** 0.5

    def static(self, variant: Streams, index: int) -> np.ndarray:
        """[total] raw static coefficients of connection `index`, float32."""
        mix = initial_logits(variant.mix, variant.streams, *self.mix)
        gates = self.read(variant.streams, index), self.write(variant.streams, index)
        return np.concatenate([*gates, mix]).astype(np.float32)


def _constant(value: float) -> Vector:
    return lambda streams, index: np.full(streams, value)


def _favourite(other: float, chosen: float) -> Vector:
    """`chosen` at stream index mod S, `other` elsewhere: neighbouring connections read different streams."""
    return lambda streams, index: np.where(np.arange(streams) == index % streams, chosen, other)


def _mean(streams: int, index: int) -> np.ndarray:
    """Logits of a sigmoid read of 1/S from every stream (S = 1 has none: 1/2, which the sublayer's norm absorbs)."""
    return np.full(streams, -np.log(max(streams - 1, 1)))


def _leaning(streams: int, index: int) -> np.ndarray:
    """Logits of sigmoid read weights that sum to one, 0.7 of it on stream index mod S (S = 1 has none but infinity)."""
    odds = np.where(np.arange(streams) == index % streams, 0.7, 0.3 / max(streams - 1, 1))
    return np.log(odds / (1 - odds))


def _demo(streams: int, index: int) -> np.ndarray:
    return np.where(np.eye(streams, dtype=bool), 1.0, -1.0).reshape(-1)


PRESETS: dict[str, Preset] = {
    "hc_paper": Preset(
        "HC, arXiv:2409.19606 eq. 14: A_m = e_(k mod n), B = 1, A_r = I, projections zero",
        _favourite(0.0, 1.0),
        _constant(1.0),
        (1.0, 0.0),
        unit_write=True,
        unit_read=True,
    ),
    "near_identity": Preset(
        "ours: read of the mhc-lite repository, write exactly 1 (equals pre-norm at step 0), H_res diagonal 0.980, so "
        "that its second eigenvalue 0.973 is where DeepSeek-V4's learned mixers are (0.962 to 0.970)",
        _favourite(-1.0, 1.0),
        _constant(0.0),
        (0.0, -5.0),
        unit_write=True,
    ),
    "uniform": Preset(
        "Megatron-LM / hyper-connection-factory: zero biases, so a Sinkhorn H_res starts uniform; projections of std "
        "0.02",
        _constant(0.0),
        _constant(0.0),
        (0.0, 0.0),
        weight_std=0.02,
    ),
    "lite_repo": Preset(
        "mhc-lite repository, arXiv:2601.05732: read and write favour stream k, H_res diagonal 0.99899",
        _favourite(-1.0, 1.0),
        _favourite(-1.0, 1.0),
        (0.0, -8.0),
        separates=True,
    ),
    "soft_identity": Preset(
        "lucidrains/hyper-connections: identity logits, H_res diagonal 0.475",
        _favourite(0.0, 1.0),
        _constant(1.0),
        (1.0, 0.0),
    ),
    "mhc_lab": Preset(
        "mhc_lab: read favours stream k by +-2, write exactly 1, diagonal logit 4",
        _favourite(-2.0, 2.0),
        _constant(0.0),
        (4.0, 0.0),
        unit_write=True,
    ),
    "zero_mix": Preset(
        "TBP-mHC's code: gates of the mhc-lite repository, mixing logits zero (every entry of H_res half-way "
        "through its interval)",
        _favourite(-1.0, 1.0),
        _favourite(-1.0, 1.0),
        (0.0, 0.0),
        separates=True,
    ),
    "circulant_repo": Preset(
        "C-mHC's code: read 1/n, write 1, mixing logits zero, projections of std 0.02 / sqrt(nC)",
        _mean,
        _constant(0.0),
        (0.0, 0.0),
        weight_std=0.02,
        by_fan_in=True,
        unit_write=True,
    ),
    "preserving": Preset(
        "ours, for models that are trained already: read weights sum to one and lean towards stream k, write exactly "
        "1, H_res diagonal 0.980: the same function at step 0, whether or not a norm follows",
        _leaning,
        _constant(0.0),
        (0.0, -5.0),
        unit_write=True,
        unit_read=True,
    ),
    "demo": Preset("seed demo: logits 2I - 1 for read, write and mix", _demo, _demo, (1.0, -1.0)),
}


def connection_values(variant: Streams, width: int, index: int, prefix: str, seed: int) -> dict[str, np.ndarray]:
    """Initial float32 values of connection `index`, by parameter name below `prefix`."""
    preset = PRESETS[variant.init]
    values = {}
    for name, shape in parameter_shapes(variant, width).items():
        if name == "bias":
            value = preset.static(variant, index)
        elif name == "weight":
            value = rng.uniform(seed, rng.stream_of(prefix + name), shape, preset.bound(shape[1]))
        elif name == "scale":
            value = np.full(shape, variant.alpha, np.float32)
        else:
            value = np.full(shape, 1.0 if name == "norm.weight" else 0.0, np.float32)
        values[prefix + name] = value
    return values


def readout_values(variant: Streams, width: int, prefix: str) -> dict[str, np.ndarray]:
    """Initial float32 values of the learned read-out: equal weights for all streams."""
    values = {"weight": 0.0, "bias": 0.0, "scale": variant.alpha}
    return {
        prefix + name: np.full(shape, values[name], np.float32)
        for name, shape in readout_shapes(variant, width).items()
    }
