"""`mhc-exp bench peers` times wrappers that compute what it says they do."""

from __future__ import annotations

import pytest

from mhc_exp.benchmarks.agreement import difference
from mhc_exp.config.compose import compose
from mhc_exp.torch.benchmarks import Connection, peers, peers_missing

pytestmark = pytest.mark.independent


@pytest.mark.parametrize(("tokens", "width"), [(128, 16), (70, 33)])
def test_the_timed_wrapper_computes_the_same_with_our_weights(tokens, width):
    """Forward and gradient of the streams, in float32."""
    assert peers_missing() is None, "type: make independent"
    config = compose(["variant=hc", "backend=cpu", "backend.threads=1", "backend.kernels=eager"])
    ours = Connection(config, tokens, width)
    expected = ours.values()
    found = {name: (peer.values(), same) for name, peer, same in peers(ours)}
    assert [same for _, same in found.values()] == [True, False]
    errors = {name: difference(values, {key: expected[key] for key in values}) for name, (values, _) in found.items()}
    assert errors["lucidrains HC"] < 1e-5
    assert errors["lucidrains mHC"] > 1e-2  # other equations: it is timed, not compared
