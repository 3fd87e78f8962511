"""`mhc-exp bench peers` times wrappers that compute what it says they do."""

from __future__ import annotations

from pathlib import Path
from runpy import run_path

import pytest

from mhc_exp.benchmarks.agreement import Disagreement, difference
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


def test_the_library_beside_theirs_is_compared_before_it_is_timed(monkeypatch, capsys):
    """benchmarks/library_peers.py: a table, and none where the two do not compute the same."""
    file = Path(__file__).parents[2] / "benchmarks" / "library_peers.py"
    module = run_path(str(file), run_name="library_peers")
    monkeypatch.setattr("sys.argv", [str(file), "--blocks", "2", "--width", "16", "--rounds", "1"])
    module["main"]()
    lines = capsys.readouterr().out.splitlines()
    (same,) = [line for line in lines if "same equations" in line]
    assert float(same.split("|")[2]) < 1e-5
    monkeypatch.setitem(module["main"].__globals__, "load_hc", lambda layer, ours: None)
    with pytest.raises(Disagreement, match="nothing was timed"):
        module["main"]()
