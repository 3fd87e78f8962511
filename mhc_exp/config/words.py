"""Words of a command line as Hydra's parser reads them: the keys that they set, and the values that they give."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, QuotedString, RangeSweep

from mhc_exp.config.vocabulary import ALL_GROUPS

MANY = 1000
"""Values of one range() that are looked at."""
Refuse = Callable[[str, str], None]
"""Reports what is wrong with a key."""


def typed_keys(words: Sequence[str]) -> set[str]:
    """Dotted keys that `words` such as `variant.mix={chart: exp}` give a value; choices of a group are none."""
    return {
        key
        for override in OverridesParser.create().parse_overrides([*words])
        if override.key_or_group not in ALL_GROUPS and not is_hydras(override)
        for key in _leaves(override.key_or_group, plain(override._value))
    }


def _leaves(key: str, value: Any) -> Iterator[str]:
    if not isinstance(value, dict):
        yield key
        return
    for name, inner in value.items():
        yield from _leaves(f"{key}.{name}", inner)


def values(override: Override, refuse: Refuse, *, any_sweeper: bool) -> Iterator[Any]:
    """Every value that an override gives its key; with `any_sweeper` a plugin may understand more than we do."""
    value: Any = override._value  # value() unpacks quotes, but not those inside a sweep
    if isinstance(value, ChoiceSweep):
        yield from map(plain, value.list)
    elif isinstance(value, RangeSweep):
        yield from _range(override, value, refuse)
    elif isinstance(value, Glob):
        refuse(override.key_or_group, "glob() matches options of a group; type the values, such as a,b")
    elif isinstance(value, IntervalSweep):
        if not any_sweeper:
            refuse(override.key_or_group, "interval() needs a sweeper plugin; type the values, such as a,b")
    else:
        yield plain(value)


def _range(override: Override, value: RangeSweep, refuse: Refuse) -> Iterable[Any]:
    if not value.step:
        refuse(override.key_or_group, f"{override.input_line}: a range needs a step other than 0")
        return []
    found = list(itertools.islice(value.range(), MANY))
    if not found:
        refuse(override.key_or_group, f"{override.input_line} is an empty range")
    return found


def is_hydras(override: Override) -> bool:
    """Whether a word is about Hydra itself."""
    return override.key_or_group == "hydra" or override.is_hydra_override()


def plain(value: Any) -> Any:
    """A parsed value without the parser's quotes."""
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    return value
