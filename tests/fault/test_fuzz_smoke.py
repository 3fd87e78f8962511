"""Row 26: thousands of damaged and forged files, seeded; `make fuzz` goes on for 10 minutes."""

from __future__ import annotations

import fuzz
import fuzz_targets
import pytest

from mhc_exp.analysis.rows import Records

COUNTS = {"checkpoint": 400, "sealed": 300, "tokens": 400, "metrics": 200, "run": 60, "config": 800, "words": 8}
"""Mutations that together take about 5 s of one core."""


@pytest.mark.fault(row=26)
@pytest.mark.parametrize("name", fuzz_targets.TARGETS)
def test_no_mutation_of_seed_1_breaks_a_reader(name: str, record_property) -> None:
    inputs = fuzz_targets.corpus()[name]
    for data in inputs:
        fuzz_targets.TARGETS[name](data)
    done = fuzz.campaign(fuzz_targets.TARGETS[name], inputs, seed=1, enough=lambda count: count >= COUNTS[name])
    record_property("trials", done)


@pytest.mark.fault(row=26, mutation=True)
@pytest.mark.parametrize("name", ["checkpoint", "tokens", "metrics"])
def test_a_reader_that_believes_what_it_reads_is_found_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "checkpoint":
        seen = fuzz_targets.checkpoints._plain_bytes
        monkeypatch.setattr(fuzz_targets.checkpoints, "_verified_bytes", lambda path, _: seen(path, 10**9))
    elif name == "tokens":
        monkeypatch.setattr("mhc_exp.data.tokens.TokenTask._check_range", lambda self, key: None)
        monkeypatch.setattr("mhc_exp.data.tokens.TokenTask._in_range", lambda self, batch, key: batch)
    else:
        monkeypatch.setattr(fuzz_targets, "read_records", believing)
    with pytest.raises(fuzz.Broken):
        fuzz.campaign(fuzz_targets.TARGETS[name], fuzz_targets.corpus()[name], seed=1, enough=lambda n: n > 3000)


def believing(place):
    """A reader of rows without a guard."""
    import json

    lines = (place / "metrics.jsonl").read_bytes().splitlines()
    rows = [json.loads(line) for line in lines]
    return Records([], 0, False)._replace(rows=sorted(rows, key=lambda row: row["step"]))


@pytest.mark.fault(row=26)
def test_an_input_that_breaks_something_is_kept(tmp_path) -> None:
    file = fuzz.keep("metrics", b"bad", tmp_path / "findings")
    assert file.read_bytes() == b"bad"
