"""The adapters that the state suite is run against."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from coordinator.state.port import StateStore
from coordinator.state.redis import RedisStore
from coordinator.state.sqlite import SqliteStore


@dataclass(frozen=True)
class Place:
    """Where a kind of store keeps its states; `where` is what its constructor takes."""

    kind: str
    where: str

    def open(self, federation: str) -> StateStore:
        if self.kind == "redis":
            return RedisStore(self.where, federation)
        return SqliteStore(Path(self.where), federation)


@pytest.fixture(params=["redis", "sqlite"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    if request.param == "redis":
        yield Place("redis", request.getfixturevalue("redis_url"))
        return
    with tempfile.TemporaryDirectory(prefix="warren-state-") as folder:
        yield Place("sqlite", folder)


@pytest.fixture
def open_store(place: Place, federation: str) -> Iterator[Callable[..., StateStore]]:
    """`open_store()` is one more coordinator's view of the test's federation, or of another one."""
    opened: list[StateStore] = []

    def open_another(name: str = federation) -> StateStore:
        opened.append(place.open(name))
        return opened[-1]

    yield open_another
    for store in opened:
        store.clear()
        store.close()


@pytest.fixture
def store(open_store: Callable[..., StateStore]) -> StateStore:
    return open_store()
