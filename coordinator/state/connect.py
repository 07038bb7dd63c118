"""From a URL or a folder to a state store. An adapter is imported only when it is asked for."""

from __future__ import annotations

from pathlib import Path

from coordinator.state.port import StateStore
from shared.errors import ConfigError


def connect(url: str, federation: str) -> StateStore:
    """The store at `redis://…`, `rediss://…`, or in a folder (SQLite).

    Raises:
        ConfigError: the URL is of no known kind.
    """
    scheme, separator, rest = url.partition("://")
    if scheme in ("redis", "rediss") and separator:
        from coordinator.state.redis import RedisStore

        return RedisStore(url, federation)
    if separator and scheme != "file":
        raise ConfigError(
            f"a state URL of kind {scheme}:// is unknown: give redis://…, rediss://… or a folder"
        )
    from coordinator.state.sqlite import SqliteStore

    return SqliteStore(Path(rest if separator else url), federation)
