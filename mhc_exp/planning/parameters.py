"""How many parameters a configuration has, from shapes alone; symbols of its dataset."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

from mhc_exp.body.parameters import body_table
from mhc_exp.config.schema import Config, Corpus, Hub, Permutation, PointerChasing, SourceCode, Text
from mhc_exp.topology import families, layout, looped, residual
from mhc_exp.topology.expansion import expansion_shapes

STATE = 16
"""Bytes per parameter in float32: the weight, its gradient, AdamW's two moments."""
BYTES = 256
"""Symbols of a dataset of raw bytes."""


class Counts(NamedTuple):
    """Numbers of parameters."""

    body: int
    connections: int


def parameter_counts(config: Config, vocab_size: int) -> Counts:
    """Of the body and of the wiring. Wirings of other families than residual, streams and looped are initialised to be
    counted, their connections alone.
    """
    return Counts(body_parameters(config, vocab_size), _connections(config))


def body_parameters(config: Config, vocab_size: int) -> int:
    """Numbers of parameters of the body; every block has as many as the first, so depth costs no time."""
    one, two = (_body(dataclasses.replace(config, depth=depth), vocab_size) for depth in (1, 2))
    return one + (config.depth - 1) * (two - one)


def _body(config: Config, vocab_size: int) -> int:
    return sum(math.prod(entry.shape) for entry in body_table(config, vocab_size).values())


def _connections(config: Config) -> int:
    variant, width, depth = config.variant, config.model.width, config.depth
    if variant.family == "residual":
        return _size(residual.parameter_shapes(variant, width, depth))
    connection = families.connection(variant)
    if connection is None:
        return sum(value.size for value in families.values(variant, width, depth, config.seed).values())
    count = len(families.wrapped(variant, depth)) * _size(layout.parameter_shapes(connection, width))
    count += _size(expansion_shapes(connection.expand, connection.streams, width))
    if variant.family == "looped":
        return count + _size(looped.position_shapes(variant, width))
    return count + _size(layout.readout_shapes(connection, width))


def _size(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def vocabulary(config: Config) -> int:
    """Symbols of the dataset, where its configuration says so; the data itself is not opened."""
    dataset = config.dataset
    if isinstance(dataset, SourceCode | Corpus):
        return BYTES
    if isinstance(dataset, Text | Hub):
        return BYTES if dataset.tokenizer == "bytes" else dataset.vocab_size
    if isinstance(dataset, PointerChasing):
        return 3 * dataset.nodes
    if isinstance(dataset, Permutation):
        return {"S3": 6, "A5": 60, "S5": 120}[dataset.group]
    return dataset.vocab_size
