"""How this room says no: every unusable dataset becomes a `ConfigError` that names the key to change."""

from __future__ import annotations

from mhc_exp.config.build import ConfigError, Problem


def refusal(key: str, message: str) -> ConfigError:
    """The error to raise when `key` (such as `dataset.path`) points at data that cannot be trained on."""
    return ConfigError([Problem(key, message)])
