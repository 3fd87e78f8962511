"""Variants for Python callers are those of the command line."""

from __future__ import annotations

import pytest

from mhc_exp.config import named
from mhc_exp.config.build import ConfigError
from mhc_exp.config.compose import compose
from mhc_exp.config.vocabulary import options


@pytest.mark.parametrize("name", options("variant"))
def test_a_name_means_what_it_means_on_the_command_line(name):
    assert named.variant(name) == compose([f"variant={name}"]).variant


def test_keys_are_dotted_or_nested():
    dotted = named.variant("mhc", {"streams": 3, "mix.chart": "cayley", "mix.iterations": 5})
    assert dotted == named.variant("mhc", {"streams": 3, "mix": {"chart": "cayley", "iterations": 5}})
    assert dotted == named.variant(named.variant("mhc", {"streams": 3}), {"mix": {"chart": "cayley", "iterations": 5}})
    assert (
        dotted
        == compose(["variant=mhc", "variant.streams=3", "variant.mix.chart=cayley", "variant.mix.iterations=5"]).variant
    )


@pytest.mark.parametrize(
    ("name", "keys", "said"),
    [
        ("mch", {}, "did you mean 'mhc'"),
        ("mhc", {"steams": 4}, "did you mean 'streams'"),
        ("mhc", {"mix.chart": "sinkhom"}, "did you mean 'sinkhorn'"),
        ("kromhc", {"streams": 3}, "power of two"),
        ("hc", {"init": "lite_repo"}, "is made for read gates"),
        ("history", {"newest": 1.0}, "below 1"),
    ],
)
def test_mistakes_are_answered(name, keys, said):
    with pytest.raises(ConfigError, match=said):
        named.variant(name, keys)


@pytest.mark.parametrize(
    ("name", "said"), [("history", "is no stream connection"), ("deepseek_v41", "read_from='current'")]
)
def test_wirings_whose_connections_do_not_stand_alone_are_refused(name, said):
    with pytest.raises(ConfigError, match=said):
        named.streams(name)
