"""Secrets do not reach the disk: neither those typed as arguments nor those in the environment."""

from __future__ import annotations

import os
import re

MASK = "***"
_SECRET_NAME = re.compile(r"(^|[._-])(api[_-]?key|key|token|secret|password|passwd|credentials?|auth)$", re.IGNORECASE)
_USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")
_SHORTEST = 8
"""Shorter values (`1`, `on`) occur by chance in any text."""


def redact(text: str) -> str:
    """`text` without values of secret-looking environment variables and without passwords in addresses."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and _SECRET_NAME.search(name) and value in text:
            text = text.replace(value, MASK)
    return _USER_INFO.sub(f"{MASK}@", text) if "://" in text else text


def redact_command(arguments: list[str]) -> list[str]:
    """The command line with the values of secret-looking options masked (`api_key=...`, `--token ...`)."""
    shown, secret_follows = [], False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if secret_follows:
            shown.append(MASK)
        elif equals and _SECRET_NAME.search(name):
            shown.append(f"{name}={MASK}")
        else:
            shown.append(redact(argument))
        secret_follows = not equals and argument.startswith("-") and bool(_SECRET_NAME.search(argument))
    return shown
