"""The stream connection in PyTorch's own operations: what every other tier has to equal.

Axes: N tokens, S streams, C width. Coefficients are tokens-last, as in mhc_exp.torch.streams.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mhc_exp.config.variants import Mix
from mhc_exp.torch.charts import chart
from mhc_exp.torch.wiring import Coefficients, contract

if TYPE_CHECKING:
    from mhc_exp.torch.streams import HyperConnection


MixFunction = Callable[[Tensor, int, Mix, float], Tensor]
"""`Eager.mix`: (logits [K, N], streams, chart and its convention, share) -> H_res as applied [S, S, N]."""


class Eager:
    """The tier that runs everywhere, in any precision."""

    name = "eager"

    def prepare(self, connections: Sequence[HyperConnection]) -> Sequence[Coefficients | None]:
        """What is known of all connections before the first one: static coefficients, all in one batch; else None."""
        first = connections[0]
        if first.variant.coefficients == "dynamic":
            return [None] * len(connections)
        read, write, mix = first.activated(torch.stack([one.bias for one in connections], 1), self.mix)
        mixes = [None] * len(connections) if mix is None else mix.split(1, 2)
        return [Coefficients(*parts) for parts in zip(read.split(1, 1), write.split(1, 1), mixes, strict=True)]

    def predict(
        self, connection: HyperConnection, x: Tensor, known: Coefficients | None
    ) -> tuple[Coefficients, Tensor]:
        """Coefficients for the streams x [N, S, C]: what is known of them, or predicted; and x.

        Streams come back, here and below, because a tier may want their gradient in one piece: go on with those.
        """
        return known or connection.activated(connection.raw(x), self.mix), x

    def enter(
        self, connection: HyperConnection, x: Tensor, known: Coefficients | None
    ) -> tuple[Coefficients, Tensor, Tensor]:
        """The same with what the sublayer reads [N, C] by them: (coefficients, read, x)."""
        coefficients, x = self.predict(connection, x, known)
        return coefficients, *self.read(x, coefficients.read)

    def read(self, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The sum [N, C] of the streams x [N, S, C] by weights [S, N] (or [S, 1]), and x."""
        return contract(x, weights), x

    def mix(self, logits: Tensor, streams: int, spec: Mix, share: float) -> Tensor:
        """H_res as applied [S, S, N] from its logits [K, N]; `share` of it is its chart (layout.mixing_share)."""
        with torch.autocast(logits.device.type, enabled=False):
            matrix = chart(logits, streams, spec, share)
        return matrix.transpose(0, 1) if spec.apply == "transposed" else matrix

    def write(self, x: Tensor, y: Tensor, coefficients: Coefficients) -> Tensor:
        """New streams [N, S, C] from the old ones and the sublayer's output y [N, C]; in the dtype of x throughout."""
        with torch.autocast(x.device.type, enabled=False):  # which would mix in bfloat16
            added = coefficients.write.t().unsqueeze(2).to(x.dtype) * y.unsqueeze(1).to(x.dtype)
            if coefficients.mix is None:
                return x + added
            mix = coefficients.mix.permute(2, 0, 1).contiguous().to(x.dtype)
            if mix.shape[0] == 1:
                return torch.matmul(mix, x) + added
            return torch.baddbmm(added, mix, x)
