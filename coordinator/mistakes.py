"""What is wrong in a user's TOML, in one sentence that names the key."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def sentence(error: ValidationError, root: type[BaseModel]) -> str:
    """The first thing that is wrong; `root` is the table that was read."""
    first = error.errors()[0]
    place = [str(step) for step in first["loc"]]
    key = ".".join(place) or "the file"
    if first["type"] == "extra_forbidden":
        known = _keys(root, place[:-1])
        near = difflib.get_close_matches(place[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        return f"key {key!r} is not known; {hint}"
    if first["type"] == "missing":
        return f"key {key!r} is missing"
    if first["type"] == "value_error":
        return _of_ours(key if place else "", first["input"], str(first["ctx"]["error"]))
    return f"key {key!r} is {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"


def _of_ours(key: str, given: object, said: str) -> str:
    """What one of our own checks said: of a value, of a table, or (no key) of several tables."""
    if not key:
        return said
    return f"[{key}] {said}" if isinstance(given, Mapping) else f"key {key!r} is {given!r}: {said}"


def _keys(root: type[BaseModel], tables: Sequence[str]) -> list[str]:
    """The keys that the table at this place knows."""
    model: Any = root
    for table in tables:
        if not table.isdigit():  # one of several alike
            annotation = model.model_fields[table].annotation
            model = next(iter(get_args(annotation)), annotation)
    return list(model.model_fields)
