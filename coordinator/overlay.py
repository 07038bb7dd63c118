"""Maps that are never changed, only replaced, and cheap to replace: what changed lies over what was there.

A plain dict that is copied for each answer of a round makes a round of n clients cost n² steps. Here a change
copies what has changed since the map was last made whole, which happens after about √n changes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from math import isqrt
from typing import Any, Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")

#: So many changes lie over even a small map.
LEAST_CHANGES = 16


class Overlay(Mapping[Key, Value], Generic[Key, Value]):
    """A map in the order in which keys came, as a dict. `base` must not change any more."""

    __slots__ = ("_added", "_base", "_removed")

    def __init__(
        self, base: Mapping[Key, Value], added: Mapping[Key, Value], removed: frozenset[Key]
    ) -> None:
        """`removed` keys of the base are gone, unless they are among the `added` ones."""
        self._base = base
        self._added = added
        self._removed = removed

    def __getitem__(self, key: Key) -> Value:
        if key in self._added:
            return self._added[key]
        if key in self._removed:
            raise KeyError(key)
        return self._base[key]

    def __contains__(self, key: object) -> bool:
        return key in self._added or (key in self._base and key not in self._removed)

    def __iter__(self) -> Iterator[Key]:
        for key in self._base:
            if key not in self._removed:
                yield key
        for key in self._added:
            if key not in self._base or key in self._removed:
                yield key

    def __len__(self) -> int:
        again = sum(key in self._base and key not in self._removed for key in self._added)
        return len(self._base) - len(self._removed) + len(self._added) - again

    def __repr__(self) -> str:
        return f"Overlay({dict(self)})"


def put(mapping: Mapping[Key, Value], key: Key, value: Value) -> Mapping[Key, Value]:
    """The map with that value."""
    base, added, removed = _layers(mapping)
    return _made(base, {**added, key: value}, removed)


def without(mapping: Mapping[Key, Value], keys: Collection[Key]) -> Mapping[Key, Value]:
    """The map without those keys, of which some may not be there."""
    gone = frozenset(key for key in keys if key in mapping)
    if not gone:
        return mapping
    base, added, removed = _layers(mapping)
    left = {key: value for key, value in added.items() if key not in gone} if added else added
    return _made(base, left, removed | (gone & base.keys()))


def _layers(mapping: Mapping[Any, Any]) -> tuple[Mapping[Any, Any], Mapping[Any, Any], frozenset[Any]]:
    if isinstance(mapping, Overlay):
        return mapping._base, mapping._added, mapping._removed
    return mapping, {}, frozenset()


def _made(
    base: Mapping[Key, Value], added: Mapping[Key, Value], removed: frozenset[Key]
) -> Mapping[Key, Value]:
    if len(added) + len(removed) <= LEAST_CHANGES + isqrt(len(base)):
        return Overlay(base, added, removed)
    left = {key: value for key, value in base.items() if key not in removed} if removed else dict(base)
    return {**left, **added}
