"""What one stack of connections did in one step: seen by observers, made into a diagnosis.

Of a connection that runs more than once in a step (gradient accumulation, recomputation) the first call counts. Axes:
N tokens, of which at most DIAGNOSIS_TOKENS are kept, S streams, C width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mhc_exp.topology import learning, watched
from mhc_exp.topology.diagnosis import Diagnosis, HistoryDiagnosis, summarise
from mhc_exp.topology.history.reads import Read
from mhc_exp.torch.diagnosis import gram, host, streams_diagnosis
from mhc_exp.torch.library.connection import Connection
from mhc_exp.torch.library.history import HistoryConnection
from mhc_exp.torch.library.stacks import Stack
from mhc_exp.torch.wiring import Coefficients
from mhc_exp.training.evaluation import DIAGNOSIS_TOKENS


@dataclass
class Seen:
    """One connection; on the device of the model, and small."""

    coefficients: Coefficients | None = None
    gram: Tensor | None = None
    weights: Tensor | None = None
    """[h] of the states of a history."""
    norms: tuple[Tensor, Tensor] | None = None
    """L2 norms of the mixed history and of the branch's output."""
    mix_gradient: Tensor | None = None
    """dL/dH_res [S, S, N]."""
    flow: Tensor | None = None
    """Norm of dL/dx, x being what the connection hands on."""


class Measured(NamedTuple):
    """What is written of a step: columns of a row, and a line of layers.jsonl without its step."""

    row: dict[str, float]
    line: watched.Line


class Sight:
    """Observers on the connections of `stack`, from construction to `close`; `measured` may be asked until the
    gradients are gone.
    """

    def __init__(self, stack: Stack):
        self.stack = stack
        self.seen: dict[int, Seen] = {}
        for index, connection in enumerate(stack.connections):
            connection.observe = self._streams(index) if stack.kind == "streams" else self._history(index)

    def close(self) -> None:
        """Leave the model as it was."""
        for connection in self.stack.connections:
            connection.__dict__.pop("observe", None)

    @property
    def differentiated(self) -> bool:
        """Whether a backward pass has been here; gradients of earlier steps may still lie on the parameters."""
        return any(one.flow is not None for one in self.seen.values())

    def measured(self) -> Measured:
        """Columns of a run (`topology.diagnosis`) and of `topology.watched`; those of gradients if there are any."""
        ran = sorted(self.seen)
        found = self._streams_diagnosis(ran) if self.stack.kind == "streams" else self._history_diagnosis(ran)
        norms = [self.seen[index].norms for index in ran]
        flow = [self.seen[index].flow for index in ran]
        more = {
            "history/contribution": [watched.share(*map(float, pair)) for pair in norms if pair is not None],
            "grad/flow": [float("nan") if one is None else float(one) for one in flow] if self.differentiated else [],
        }
        return Measured(summarise(found), watched.line(found, ran, len(self.stack.connections), more))

    # --- observers -------------------------------------------------------------------------------------------------

    def _streams(self, index: int) -> Any:
        @torch.no_grad()
        def observe(coefficients: Coefficients, streams: Tensor) -> None:
            seen = self.seen.get(index)
            if seen is None:
                read, write, mix = coefficients
                kept = Coefficients(_sampled(read, -1), _sampled(write, -1), None if mix is None else _sampled(mix, -1))
                seen = self.seen[index] = Seen(kept, gram(_sampled(streams, 0)))
            mix = coefficients.mix
            if mix is not None and mix.requires_grad and seen.mix_gradient is None:
                mix.register_hook(lambda gradient: setattr(seen, "mix_gradient", _sampled(gradient, -1)))
            _watch_flow(streams, seen)

        return observe

    def _history(self, index: int) -> Any:
        @torch.no_grad()
        def observe(weights: Tensor, mixed: Tensor, output: Tensor, new: Tensor) -> None:
            seen = self.seen.get(index)
            if seen is None:
                norms = torch.linalg.vector_norm(mixed.float()), torch.linalg.vector_norm(output.float())
                seen = self.seen[index] = Seen(weights=weights.detach().clone(), norms=norms)
            _watch_flow(new, seen)

        return observe

    # --- what they make --------------------------------------------------------------------------------------------

    def _streams_diagnosis(self, ran: list[int]) -> Diagnosis:
        first = self.stack.connections[0]
        assert isinstance(first, Connection)
        seen = [self.seen[index] for index in ran]
        pairs = [(one.coefficients, one.gram) for one in seen if one.coefficients is not None and one.gram is not None]
        mixes = [one.mix_gradient for one in seen if one.mix_gradient is not None]
        whole = len(mixes) == len(seen)
        own, gradients = self._parameters(ran)
        return streams_diagnosis(first.variant, pairs, own, gradients, mixes if whole else [])

    def _history_diagnosis(self, ran: list[int]) -> HistoryDiagnosis:
        reads, weights = [], []
        for index in ran:
            one, found = self.stack.connections[index], self.seen[index].weights
            assert isinstance(one, HistoryConnection)
            assert found is not None
            reads.append(Read(one.layer_index, tuple(one.layer_index - age for age in range(len(found))), ahead=1))
            weights.append(host(found)[None, :, None])
        _, gradients = self._parameters(ran)
        return HistoryDiagnosis(reads, weights, learning.gradient_norms(gradients, len(ran), None))

    def _parameters(self, ran: list[int]) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
        """Parameters of the connections that ran, and the gradients that there are, under the names of a run."""
        own: dict[str, Tensor] = {}
        for place, index in enumerate(ran):
            one = self.stack.connections[index]
            for name, parameter in one.named_parameters():
                if isinstance(one, Connection) or not name.startswith("branch."):
                    own[learning.CONNECTION.format(place) + name] = parameter
        if not self.differentiated:
            return own, {}
        return own, {name: host(one.grad) for name, one in own.items() if one.grad is not None}


def _watch_flow(state: Tensor, seen: Seen) -> None:
    if state.requires_grad and seen.flow is None:
        state.register_hook(lambda gradient: setattr(seen, "flow", torch.linalg.vector_norm(gradient.float())))


def _sampled(tensor: Tensor, axis: int) -> Tensor:
    """At most DIAGNOSIS_TOKENS entries along `axis`, evenly spaced, the first and the last among them; a copy."""
    length = tensor.shape[axis]
    places = np.linspace(0, length - 1, min(length, DIAGNOSIS_TOKENS)).round().astype(np.int64)
    return tensor.detach().index_select(axis, torch.from_numpy(places).to(tensor.device))
