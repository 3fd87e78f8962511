"""What the backward pass needs from the forward pass, counted from the equations.

n streams, C width, F hidden width of the MLP, V vocabulary, P raw coefficients of a connection. Streams, norms and
coefficients are float32, the body's matrix products read `backend.dtype`. tests/unit/test_activations.py holds this
against what PyTorch keeps, byte by byte. Families other than residual, streams and looped are a rough guess.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mhc_exp.body.parameters import hidden_width
from mhc_exp.config.schema import Config
from mhc_exp.config.variants import Mix, Residual, Streams
from mhc_exp.topology import families
from mhc_exp.topology.layout import layout

SINGLE = 4
"""Bytes of a float32."""
MODELLED = ("residual", "streams", "looped")
"""Families whose activations are counted."""
RECOMPUTABLE = ("residual", "streams")
"""Families whose connections can be recomputed in blocks."""


@dataclass(frozen=True)
class Activations:
    """Bytes of one microbatch."""

    layer: float
    """Kept by one connection with what it wraps (or by one sublayer of a residual stream)."""
    layers: int
    """How many of them there are: the L of the mHC paper."""
    entering: float
    """The state that enters one of them, which is all that a recomputed block keeps."""
    head: float
    """Kept by the embedding, the final norm, the head and the loss."""
    working: float
    """Held beside what is kept while the gradient of the scores is made."""
    connection: float = 0.0
    """The part of `layer` that belongs to the connection alone: neither the sublayer's nor what the sublayer gave."""

    def kept(self, length: int | None, connections: bool = False) -> float:
        """Kept at the end of the forward pass: of everything, or of blocks of `length` layers; `connections`: of which
        only the connections are computed again.
        """
        if length is None:
            return self.layers * self.layer + self.head
        stays = self.layers * (self.layer - self.connection) if connections else 0.0
        return math.ceil(self.layers / length) * self.entering + stays + self.head

    def peak(self, length: int | None, connections: bool = False) -> float:
        """At most held at any time: at the head, or while the last block, computed again, is being differentiated."""
        at_head = self.kept(length, connections) + self.working
        if length is None:
            return at_head
        inside = min(length, self.layers) * (self.connection if connections else self.layer) + 2 * self.entering
        return max(at_head, self.kept(length, connections) - self.head + inside)

    def shortest_peak(self) -> int:
        """The block length with the smallest peak."""
        return min(range(1, self.layers + 1), key=lambda length: (self.peak(length), length))


def activations(config: Config, vocab_size: int, native: bool) -> Activations:
    """`native`: the C kernels compute the connections."""
    variant, width, depth = config.variant, config.model.width, config.depth
    tokens = config.model.seq_len * config.training.batch_size // config.training.accumulation
    connection, own = families.connection(variant), families.kept(variant, depth)
    count = len(families.wrapped(variant, depth)) or 2 * depth
    body = tokens * block_bytes(config) * sum(families.passes(variant, depth)) + depth * _copies(config, block=True)
    if connection is not None:
        numbers = connection_numbers(connection, width, native)
    else:
        numbers = _residual_numbers(variant, width) if isinstance(variant, Residual) else 2 * own * width
    waiting = variant.streams if variant.family == "streams" and variant.read_from == "previous" else 0
    return Activations(
        layer=body / count + tokens * SINGLE * numbers,
        layers=count,
        entering=tokens * SINGLE * (own * width + waiting),
        head=tokens * _head_bytes(config, vocab_size) + _copies(config, block=False, vocab_size=vocab_size),
        working=tokens * SINGLE * 2 * vocab_size,
        connection=0.0 if connection is None else tokens * SINGLE * (numbers - width),
    )


def _half(config: Config) -> int:
    """Bytes of a number in the body's matrix products."""
    return 2 if config.backend.dtype == "bfloat16" else SINGLE


def _copies(config: Config, block: bool, vocab_size: int = 0) -> float:
    """Weights of a block (or of the head) in bfloat16, which autocast keeps beside the float32 ones."""
    if config.backend.dtype != "bfloat16":
        return 0
    model = config.model
    matrices = 3 if model.activation == "swiglu" else 2
    inside = 4 * model.width**2 + matrices * model.width * hidden_width(model)
    return 2 * (inside if block else vocab_size * model.width)


def _norm_numbers(config: Config) -> int:
    """What a norm keeps: its input and statistics; RMSNorm, made of single operations, the normalised input too."""
    return config.model.width + 2 if config.model.norm == "layernorm" else 2 * config.model.width + 1


def _head_bytes(config: Config, vocab_size: int) -> float:
    """Per token: final norm, scores, loss; the embedding's dropout; the last read of the streams; int64 tokens."""
    model, variant = config.model, config.variant
    numbers = _norm_numbers(config) + vocab_size + 4 + (model.width if model.dropout else 0)
    if variant.family == "streams" and variant.reduce in ("head", "last_read"):
        numbers += variant.streams * (model.width + 1)
    if variant.family == "streams" and variant.reduce == "head":
        numbers += 2 * variant.streams + 1
    return SINGLE * numbers + _half(config) * model.width


def block_bytes(config: Config) -> float:
    """Per token: attention and MLP of one block with their norms and dropout."""
    model, variant = config.model, config.variant
    width, hidden = model.width, hidden_width(model)
    normed = not (isinstance(variant, Residual) and variant.norm == "none")
    attention = (5 + 3 * (model.positions == "rotary")) * width  # normed, q k v, mixed; q, k and mixed made anew
    mlp = width + (4 if model.activation == "swiglu" else 2) * hidden
    dropped = 2 * width if model.dropout else 0
    norms = 2 * _norm_numbers(config) if normed else 0
    return _half(config) * (attention + mlp + dropped) + SINGLE * (norms + model.heads)


def connection_numbers(variant: Streams, width: int, native: bool) -> float:
    """float32 numbers per token of one connection: the streams, the sublayer's output, coefficients."""
    n, sizes, mixes = variant.streams, layout(variant), variant.mix.chart != "identity"
    streams = (n + 1) * width
    if variant.coefficients == "static":
        return streams + (n * width if mixes and not native else 0)  # the streams once more, laid out for one matrix
    if variant.norm == "layer":  # normed streams and their statistics; the projection, and its part for H_res once more
        numbers = n * width + 2 * n + sizes.total + sizes.mix + _gates(variant)
    elif native and variant.squash == "none":
        numbers = sizes.total + 1 + 2 * n
    else:
        numbers = (3 if variant.squash == "tanh" else 2) * sizes.total + 1 + _gates(variant)
    if not mixes:
        return streams + numbers
    fused = native and variant.mix.chart == "sinkhorn" and variant.mix.solver == "iterations"
    return streams + numbers + n * n + (n * n if fused else chart_numbers(variant.mix, n))


def chart_numbers(spec: Mix, streams: int) -> float:
    """Numbers that PyTorch's own operations keep inside a chart; charts other than Sinkhorn-Knopp: their matrix."""
    square, alternations = streams**2, 2 * spec.iterations
    if spec.chart == "free":
        return 0
    if spec.chart != "sinkhorn" or spec.solver == "newton":
        return square
    if spec.start == "exp" and spec.eps == 0:
        return (alternations + 1) * square
    return (alternations - (spec.start == "softmax") + 1) * (square + streams)


def _gates(variant: Streams) -> int:
    """What gates keep: sigmoid its result, twice that the double; without one the raw coefficients stay."""
    activations = (variant.read.activation, variant.write.activation)
    if "linear" in activations:
        return layout(variant).total
    return sum(2 if activation == "two_sigmoid" else 1 for activation in activations) * variant.streams


def _residual_numbers(variant: Residual, width: int) -> float:
    """A gate keeps what it multiplies, LAuReL the sublayer's output and its low-rank part."""
    numbers = width if variant.gate.shape != "none" else 0
    if variant.laurel.terms in ("rw", "rw_lr"):
        numbers += width
    if variant.laurel.terms in ("lr", "rw_lr"):
        numbers += variant.laurel.rank + (width if variant.laurel.terms == "rw_lr" else 0)
    return numbers
