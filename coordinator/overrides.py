"""`--set table.key=value`: single keys of a configuration, from a command line."""

from __future__ import annotations

import tomllib
from typing import Any

from shared.errors import ConfigError


def override(raw: dict[str, Any], text: str) -> str:
    """Sets the key in a parsed TOML document; returns it, dotted.

    Raises:
        ConfigError: the text is not of that form, or the key leads through what is no table.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r} is not of the form table.key=value")
    *tables, last = key.strip().split(".")
    place = raw
    for table in tables:
        place = place.setdefault(table, {})
        if not isinstance(place, dict):
            raise ConfigError(f"--set {text!r}: {table!r} is no table")
    place[last] = _value(value)
    return key.strip()


def _value(text: str) -> Any:
    """A TOML value; bare words count as text, so that quotes needn't be quoted from the shell."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()
