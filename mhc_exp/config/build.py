"""From a plain mapping to a frozen `Config`, reporting every problem at once."""

from __future__ import annotations

import dataclasses
import sys
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from mhc_exp.config.ranges import Range
from mhc_exp.config.schema import DISCRIMINATORS, Config
from mhc_exp.config.spelling import suggest


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing wrong with a configuration: where, what, and what would be legal."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class ConfigError(Exception):
    """A configuration that cannot run; `problems` lists everything wrong with it."""

    def __init__(self, problems: list[Problem]):
        self.problems = problems
        super().__init__("\n".join(f"  {problem}" for problem in problems))


def build(mapping: dict[str, Any]) -> Config:
    """The `Config` described by `mapping` (types and ranges checked). Raises ConfigError with all problems."""
    problems: list[Problem] = []
    config = _dataclass(Config, mapping, "", problems)
    if problems:
        raise ConfigError(problems)
    return config


def build_group(name: str, mapping: dict[str, Any]) -> Any:
    """The dataclass of one group, `variant` or `dataset`. Raises ConfigError with all problems."""
    problems: list[Problem] = []
    found = _union(name, mapping, problems)
    if problems:
        raise ConfigError(problems)
    return found


def value_problems(hint: Any, value: Any, path: str) -> list[Problem]:
    """What is wrong with `value` for one key of the schema, given the key's type hint."""
    problems: list[Problem] = []
    _value(hint, value, path, problems)
    return problems


def as_mapping(config: Any) -> dict[str, Any]:
    """The plain nested mapping of a config dataclass; `build(as_mapping(c)) == c`."""
    return dataclasses.asdict(config)


def _dataclass(cls: type, data: Any, path: str, problems: list[Problem]) -> Any:
    if not isinstance(data, dict):
        problems.append(Problem(path or "config", f"expected a group of keys, got {data!r}"))
        return None
    hints = get_type_hints(cls, include_extras=True)
    for key in data:
        if key not in hints:
            problems.append(Problem(_join(path, key), f"unknown key{suggest(str(key), list(hints))}"))
    defaults = {
        field.name: field.default for field in dataclasses.fields(cls) if field.default is not dataclasses.MISSING
    }
    values: dict[str, Any] = dict(defaults)
    for key, hint in hints.items():
        if key in data:
            values[key] = _value(hint, data[key], _join(path, key), problems)
        elif key not in defaults:
            problems.append(Problem(_join(path, key), "missing"))
    if any(problem.path.startswith(path) for problem in problems) and len(values) < len(hints):
        return None
    return cls(**values)


def _value(hint: Any, value: Any, path: str, problems: list[Problem]) -> Any:
    if path in DISCRIMINATORS:
        return _union(path, value, problems)
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint, value, path, problems)  # type: ignore[arg-type]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):  # X | None
        if value is None:
            return None
        return _value(next(a for a in arguments if a is not type(None)), value, path, problems)
    if origin is Annotated:
        before = len(problems)
        value = _value(arguments[0], value, path, problems)
        if len(problems) == before:
            _in_range(arguments[1], value, path, problems)
        return value
    if origin is Literal:
        if value not in arguments or isinstance(value, bool):
            allowed = ", ".join(map(str, arguments))
            problems.append(
                Problem(path, f"{value!r} is not one of {allowed}{suggest(str(value), [str(a) for a in arguments])}")
            )
        return value
    if origin is list:
        if not isinstance(value, list) or not all(isinstance(item, arguments[0]) for item in value):
            problems.append(Problem(path, f"expected a list of {arguments[0].__name__}, got {value!r}"))
        return value
    return _scalar(hint, value, path, problems)


def _scalar(hint: type, value: Any, path: str, problems: list[Problem]) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value == "???":
        problems.append(Problem(path, f"needs a value; type {path}=..."))
    elif number and hint in (int, float) and not (abs(value) <= sys.float_info.max):
        problems.append(Problem(path, f"must be finite, got {value if isinstance(value, float) else 'a huge number'}"))
    elif hint is float and number:
        return float(value)
    elif hint is int and isinstance(value, float) and value.is_integer():
        return int(value)  # training.tokens=1e6
    elif hint is str and isinstance(value, str) and "\x00" in value:
        problems.append(Problem(path, "may not contain a NUL character"))
    elif hint is str and number:
        problems.append(Problem(path, f"expected text, got the number {value}; type {path}=\"'{value}'\""))
    elif not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
        problems.append(Problem(path, f"expected {names[hint]}, got {value!r}"))
    return value


def _union(path: str, data: Any, problems: list[Problem]) -> Any:
    key, classes = DISCRIMINATORS[path]
    kind = data.get(key) if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in classes:
        problems.append(Problem(_join(path, key), f"{kind!r} is not one of {', '.join(classes)}"))
        return None
    return _dataclass(classes[kind], data, path, problems)


def _in_range(allowed: Range, value: float, path: str, problems: list[Problem]) -> None:
    low, high = allowed.minimum, allowed.maximum
    below = low is not None and (value <= low if allowed.exclusive else value < low)
    if below or (high is not None and value > high):
        limits = []
        if low is not None:
            limits.append(f"{'above' if allowed.exclusive else 'at least'} {low:g}")
        if high is not None:
            limits.append(f"at most {high:g}")
        problems.append(Problem(path, f"must be {' and '.join(limits)}, got {value}"))


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)
