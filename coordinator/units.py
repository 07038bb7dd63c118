"""Sizes and times as people write them in a TOML: "20GB", "30d"."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BeforeValidator

BYTES = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_MEASURE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*")


def measured(units: Mapping[str, int], example: str) -> BeforeValidator:
    """For a field that takes a text with a number and a unit, or a plain number: whole units that count 1."""

    def parse(value: object) -> int:
        number: Any = value
        unit = ""
        if isinstance(value, str) and (found := _MEASURE.fullmatch(value)):
            number, unit = float(found[1]), found[2]
        if type(number) in (int, float) and unit in units and math.isfinite(number):
            count: int = round(number * units[unit])
            return count
        names = ", ".join(name for name in units if name)
        raise ValueError(f'take a number, or one with {names}, as in "{example}"')

    return BeforeValidator(parse)


def enough(nbytes: int) -> str:
    """The least short size that is no less: of 4,114,286 bytes "4.2MB"."""
    unit = max((name for name in BYTES if BYTES[name] <= nbytes), key=lambda name: BYTES[name], default="B")
    return f"{math.ceil(nbytes * 10 / BYTES[unit]) / 10:g}{unit}"
