"""The words of a command line, checked one by one before Hydra composes anything.

Hydra stops at the first mistake, accepts `+dept=1`, and runs one default job for a sweep file without `-m`. Here every
key, option and value is held against the schema, and all problems are reported together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_origin

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from mhc_exp.config import vocabulary, words
from mhc_exp.config.build import Problem, value_problems
from mhc_exp.config.compose import compose_mapping, option_class, sweep_params
from mhc_exp.config.foreign import foreign_problems
from mhc_exp.config.schema import DISCRIMINATORS
from mhc_exp.config.spelling import nearest, suggest

COMMAND = "python -m mhc_exp"

THAT_CALL = ("hydra.callbacks", "hydra/callbacks", "hydra.job_logging", "hydra.hydra_logging")
"""Keys of Hydra under which a name is imported and called."""


Choice = tuple[str, type | None]
"""An option that may be in effect, and the dataclass behind it (None if its file does not tell)."""


def override_problems(
    overrides: Sequence[str], *, multirun: bool = False, config_dirs: Sequence[Path] = ()
) -> list[Problem]:
    """Everything wrong with these `key=value` words, as far as it shows before composition."""
    reader = _Reader(multirun, config_dirs)
    return [*reader.read(overrides), *foreign_problems(config_dirs, reader.searchpath)]


class _Reader:
    """One reading of a command line."""

    def __init__(self, multirun: bool, config_dirs: Sequence[Path]) -> None:
        self.multirun, self.config_dirs = multirun, config_dirs
        self.problems: list[Problem] = []
        self.chosen: dict[str, list[str]] = {}
        """Legal options named on the command line or by the sweep file, by group."""
        self.open_world = False
        """Whether options may come from a place only Hydra knows (hydra.searchpath)."""
        self.searchpath: list[str] = []
        """Those places."""
        self.any_sweeper = False
        """Whether a sweeper plugin was chosen, which may understand more than the built-in one."""

    def read(self, overrides: Sequence[str]) -> list[Problem]:
        parsed = [override for text in overrides if (override := self._parse(text))]
        for override in parsed:
            if "_target_" in (override.input_line or ""):
                self._refuse(str(override.key_or_group), "a configuration never names code to run; leave out _target_")
            elif str(override.key_or_group).startswith(THAT_CALL):
                self._refuse(str(override.key_or_group), "can name code to run, so it cannot be set; leave it out")
        ours = [override for override in parsed if not words.is_hydras(override)]
        for override in parsed:
            self.open_world |= override.key_or_group == "hydra.searchpath"
            if override.key_or_group == "hydra.searchpath":
                value = words.plain(override._value)
                self.searchpath += [str(place) for place in (value if isinstance(value, list) else [value])]
            self.any_sweeper |= override.key_or_group == "hydra/sweeper"
        groups = [override for override in ours if self._is_group(override)]
        for override in groups:
            self._group(override)
        given = {override.key_or_group for override in ours}
        extra = [override for override in self._sweep_file() if override.key_or_group not in given]
        for override in extra:
            if self._is_group(override):
                self._group(override)
        for override in (*ours, *extra):
            if not self._is_group(override):
                self._key(override)
        return list(dict.fromkeys(self.problems))

    def _refuse(self, path: str, message: str) -> None:
        self.problems.append(Problem(path, message))

    # --- words -------------------------------------------------------------------------------------------------

    def _parse(self, text: str) -> Override | None:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException as error:
            self._unreadable(text, error)
            return None
        if not override.key_or_group:
            self._refuse(text, f"is not of the form key=value; see {COMMAND} --help")
            return None
        return override

    def _unreadable(self, text: str, error: HydraException) -> None:
        word = text.lstrip("+~")
        if "=" in text:
            reason = (str(error).splitlines() or ["not understood"])[0]
            key = word.split("=", 1)[0].strip()
            self._refuse(text, f"cannot be read ({reason}); quote special characters: {key}=\"'...'\"")
            return
        groups = [group for group in vocabulary.ALL_GROUPS if word in self._options(group)]
        words = [*vocabulary.keys(), *vocabulary.OVERLAYS]
        if groups and word not in words:
            hint = f"did you mean {groups[0]}={word}?"
        else:
            close = nearest(word, words)
            hint = f"did you mean {close}=...?" if close else f"see {COMMAND} --help"
        self._refuse(text, f"is not of the form key=value; {hint}")

    def _allowed_prefix(self, override: Override) -> bool:
        """Whether `~`, `+` and `++` make sense; reports it if not."""
        key = override.key_or_group
        if override.is_delete():
            self._refuse(f"~{key}", f"a key cannot be deleted; type {key}= and another value (null means none)")
        elif override.is_add() or (override.is_force_add() and self._is_group(override)):
            self._refuse(f"+{key}", f"exists already; type {key}=... without the +")
        else:
            return True
        return False

    # --- groups ------------------------------------------------------------------------------------------------

    def _is_group(self, override: Override) -> bool:
        return override.key_or_group in vocabulary.ALL_GROUPS

    def _options(self, group: str) -> list[str]:
        return vocabulary.options(group, self.config_dirs)

    def _group(self, override: Override) -> None:
        group = override.key_or_group
        if not self._allowed_prefix(override):
            return
        if override.package is not None:
            self._refuse(f"{group}@{override.package}", f"packages are not used here; type {group}=...")
            return
        if group in self.chosen:
            self._refuse(group, f"given twice (again in {override.input_line}); type it once")
            return
        names = list(self._names(override))
        legal = [name for name in names if self._legal_option(group, name)]
        self.chosen[group] = [name for name in legal if name is not None]
        if group == "sweep" and any(self.chosen[group]):
            self._sweep_allowed(override)
        elif override.is_sweep_override() and not self.multirun:
            self._several(override, names)

    def _names(self, override: Override) -> Iterator[Any]:
        """Every option that a group override names."""
        group = override.key_or_group
        value: Any = override._value  # value() unpacks quotes, but not those inside a sweep
        if isinstance(value, Glob):
            names = value.filter(self._options(group))
            if not names:
                self._refuse(group, f"{override.input_line} matches none of {', '.join(self._options(group))}")
            yield from names
        elif isinstance(value, ChoiceSweep | RangeSweep | IntervalSweep):
            yield from self._values(override)
        elif isinstance(value, list) and group == "experiment":
            yield from map(words.plain, value)
        else:
            yield words.plain(value)

    def _legal_option(self, group: str, name: Any) -> bool:
        known = self._options(group)
        if name is None and group in vocabulary.OVERLAYS:
            return True
        if isinstance(name, str) and (name in known or self.open_world or "${" in name):
            return True
        article = "an" if group[0] in "aeiou" else "a"
        if isinstance(name, str):
            self._refuse(group, f"no {group} is called {name!r}{suggest(name, known)}; options: {', '.join(known)}")
        else:
            self._refuse(
                group,
                f"takes the name of {article} {group}, got {name!r}; type {group}= and one of {', '.join(known)} "
                f"(single keys: {group}.KEY=VALUE)",
            )
        return False

    def _sweep_allowed(self, override: Override) -> None:
        name = self.chosen["sweep"][0]
        if len(self.chosen["sweep"]) > 1:
            self._refuse("sweep", f"one sweep at a time; type {COMMAND} -m sweep={name}")
        elif not self.multirun:
            self._refuse("sweep", f"sweep={name} describes many runs and needs -m; type {COMMAND} -m sweep={name}")

    def _sweep_file(self) -> list[Override]:
        """What the chosen sweep file would add to the command line (its hydra.sweeper.params)."""
        names = self.chosen.get("sweep", []) if self.multirun else []
        added = [f"{key}={values}" for name in names for key, values in sweep_params(name).items()]
        return [override for word in added if (override := self._parse(word))]

    # --- keys --------------------------------------------------------------------------------------------------

    def _key(self, override: Override) -> None:
        key = override.key_or_group
        if override.package is not None:
            self._refuse(f"{key}@{override.package}", "packages are not used here; type KEY=VALUE")
            return
        hints = self._hints(key)
        if not hints or not self._allowed_prefix(override):
            return
        values = list(self._values(override))
        if override.is_sweep_override() and not self.multirun:
            self._several(override, values)
            return
        for value in values:
            self._value(key, value, hints)

    def _hints(self, key: str) -> list[Any]:
        """The type of `key` under every choice that may be in effect; empty (and reported) if one of them lacks it."""
        group = key.split(".")[0]
        hints = []
        for option, cls in self._choices(group) if group in DISCRIMINATORS else [("", None)]:
            found = vocabulary.keys(**{group: cls}) if cls else vocabulary.keys()
            if key in found:
                hints.append(found[key])
                continue
            owners = self._owners(group, key) if cls else []
            if owners:
                one, others = owners[0], f" (also: {', '.join(owners[1:])})" if len(owners) > 1 else ""
                message = f"{group}={option} has no such key; it belongs to {group}={one}{others}: type {group}={one}"
            else:
                message = vocabulary.advice(key, found)
            self._refuse(key, message)
            return []
        return hints

    def _choices(self, group: str) -> list[Choice]:
        """The options of `group` that may be in effect."""
        if self.chosen.get(group):
            return [(option, self._class_of(group, option)) for option in self.chosen[group]]
        if group in self.chosen:  # an unknown option, which was reported
            return [("", None)]
        discriminator, classes = DISCRIMINATORS[group]
        found: dict[str, type | None] = {}
        for recipe in self.chosen.get("experiment") or [None]:
            words = [f"{overlay}={name}" for overlay, name in (("experiment", recipe), *self._sweep_words()) if name]
            try:
                mapping, choices = compose_mapping(words, self.config_dirs)
            except (HydraException, OmegaConfBaseException):
                return [("", None)]  # composition of the whole will say why
            found[choices[group]] = classes.get(mapping[group].get(discriminator))
        return list(found.items())

    def _sweep_words(self) -> list[tuple[str, str]]:
        return [("sweep", name) for name in self.chosen.get("sweep", [])[:1]]

    def _class_of(self, group: str, option: str) -> type | None:
        return option_class(group, option, self.config_dirs)

    def _owners(self, group: str, key: str) -> list[str]:
        """Options of `group` that have `key`."""
        return [
            option
            for option in self._options(group)
            if (cls := self._class_of(group, option)) and key in vocabulary.keys(**{group: cls})
        ]

    # --- values ------------------------------------------------------------------------------------------------

    def _values(self, override: Override) -> Iterator[Any]:
        """Every value that an override gives its key."""
        return words.values(override, self._refuse, any_sweeper=self.any_sweeper)

    def _several(self, override: Override, values: Sequence[Any]) -> None:
        key = override.key_or_group
        listing = get_origin(vocabulary.keys().get(key)) is list
        hint = f"; for a list type {key}=[{','.join(map(str, values))}]" if listing else ""
        self._refuse(key, f"several values are a sweep and need -m; type {COMMAND} -m {override.input_line}{hint}")

    def _value(self, key: str, value: Any, hints: Sequence[Any]) -> None:
        """Hold one value against the types of `key`; interpolations are judged after composition."""
        if isinstance(value, str) and "${" in value:
            return
        if not dataclasses.is_dataclass(hints[0]):
            for hint in hints:
                self.problems.extend(value_problems(hint, value, key))
        elif isinstance(value, dict):
            for inner, inner_value in value.items():
                inner_key = f"{key}.{inner}"
                inner_hints = self._hints(inner_key)
                if inner_hints:
                    self._value(inner_key, inner_value, inner_hints)
        else:
            keys = vocabulary.keys()
            inside = [path.rpartition(".")[2] for path in keys if path.rpartition(".")[0] == key]
            self._refuse(key, f"is a group of keys ({', '.join(inside)}); type {key}.{inside[0]}=...")
