"""The state store in a folder, for one machine: what Redis is to RabbitMQ, this is to the embedded broker.

Write-ahead logging with `synchronous=NORMAL`: safe against killed processes; a loss of power may lose the
last commits, which the coordinator writes again. Leases expire by the machine's clock.
"""

from __future__ import annotations

import fcntl
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coordinator.state.port import SECTIONS, Changes, Section, Snapshot
from shared.errors import StateUnreachable
from shared.topology import check_slug

#: How long one process waits for another one's transaction.
BUSY_TIMEOUT_S = 5.0

TABLES = """
CREATE TABLE IF NOT EXISTS leases (federation TEXT PRIMARY KEY, token TEXT NOT NULL, expires REAL NOT NULL);
CREATE TABLE IF NOT EXISTS entries (
    federation TEXT, section TEXT, field TEXT, value TEXT NOT NULL, PRIMARY KEY (federation, section, field)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS history (
    federation TEXT, position INTEGER, round TEXT NOT NULL, PRIMARY KEY (federation, position)
) WITHOUT ROWID;
"""


class SqliteStore:
    """One federation's state in `folder/state.db`; the folder is made if it is missing.

    Raises:
        ConfigError: the federation's name is no slug.
    """

    def __init__(self, folder: Path, federation: str) -> None:
        self._path = Path(folder) / "state.db"
        self._federation = check_slug("federation", federation)
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []

    def lease(self, token: str, ttl_s: float, instead_of: str | None = None) -> str:
        with self._transaction() as database:
            holder = self._holder(database)
            if holder not in (None, token, instead_of):
                return str(holder)
            database.execute(
                "INSERT OR REPLACE INTO leases VALUES (?, ?, ?)",
                (self._federation, token, time.time() + ttl_s),
            )
            return token

    def release(self, token: str) -> None:
        with self._transaction() as database:
            database.execute(
                "DELETE FROM leases WHERE federation = ? AND token = ?", (self._federation, token)
            )

    def write(self, token: str, changes: Changes) -> bool:
        with self._transaction() as database:
            if self._holder(database) != token or self._rounds(database) < (changes.history_from or 0):
                return False
            for section in changes.replace:
                self._empty(database, section)
            for sections in (changes.replace, changes.merge):
                for section, fields in sections.items():
                    rows = [(self._federation, section, *field) for field in fields.items()]
                    database.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)", rows)
            self._append(database, changes)
            return True

    def read(self) -> Snapshot:
        mine = (self._federation,)
        with self._transaction("DEFERRED") as database:
            entries = database.execute(
                "SELECT section, field, value FROM entries WHERE federation = ?", mine
            ).fetchall()
            rounds = database.execute(
                "SELECT round FROM history WHERE federation = ? ORDER BY position", mine
            ).fetchall()
            leader = self._holder(database)
        sections: dict[Section, dict[str, str]] = {section: {} for section in SECTIONS}
        for section, field, value in entries:
            sections[section][field] = value
        return Snapshot(sections, [text for (text,) in rounds], leader)

    def clear(self) -> None:
        with self._transaction() as database:
            for table in ("leases", "entries", "history"):
                database.execute(f"DELETE FROM {table} WHERE federation = ?", (self._federation,))

    def close(self) -> None:
        while self._connections:
            self._connections.pop().close()
        self._local = threading.local()

    def _holder(self, database: sqlite3.Connection) -> str | None:
        found = database.execute(
            "SELECT token FROM leases WHERE federation = ? AND expires > ?", (self._federation, time.time())
        ).fetchall()
        return str(found[0][0]) if found else None

    def _empty(self, database: sqlite3.Connection, section: Section) -> None:
        database.execute(
            "DELETE FROM entries WHERE federation = ? AND section = ?", (self._federation, section)
        )

    def _append(self, database: sqlite3.Connection, changes: Changes) -> None:
        if changes.history_from is not None:
            database.execute(
                "DELETE FROM history WHERE federation = ? AND position >= ?",
                (self._federation, changes.history_from),
            )
        first = self._rounds(database)
        rows = [(self._federation, at, text) for at, text in enumerate(changes.history, first)]
        database.executemany("INSERT INTO history VALUES (?, ?, ?)", rows)

    def _rounds(self, database: sqlite3.Connection) -> int:
        counted = database.execute("SELECT count(*) FROM history WHERE federation = ?", (self._federation,))
        return int(counted.fetchone()[0])

    @contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[sqlite3.Connection]:
        """A transaction on the calling thread's own connection."""
        try:
            database = self._connection()
            with database:
                database.execute(f"BEGIN {kind}")
                yield database
        except (sqlite3.Error, OSError) as error:
            raise StateUnreachable(
                f"the state store {self._path} can't be used ({error}): mend its folder, or take another one"
            ) from error

    def _connection(self) -> sqlite3.Connection:
        existing: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if existing is None:
            existing = self._local.connection = self._connect()
        return existing

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(
            self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        self._connections.append(database)
        # SQLite doesn't wait for another process that makes the same change of mode: one at a time.
        with open(self._path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.executescript(TABLES)
        return database
