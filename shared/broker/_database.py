"""The embedded broker's database: one SQLite file in WAL mode, and one lock file around its writes.

SQLite's own waiting for a writer sleeps in growing steps; the lock file hands over sooner. Commits aren't
synced to the disk one by one: a killed process loses nothing, a power cut may lose the last commits.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from shared.broker import _locks
from shared.errors import BrokerUnreachable, ConfigError
from shared.retry import retrying

Result = TypeVar("Result")

FILE = "broker.db"
LOCK = "broker.lock"
#: "WRN1" as a number: by this SQLite files are told apart.
APPLICATION = 0x57524E31
SCHEMA_VERSION = 2
#: Pages of write-ahead log before they're folded into the file, which costs two syncs.
CHECKPOINT_PAGES = 4000
#: What the write-ahead log is cut back to when a large transaction has made it longer.
WAL_BYTES = 32 << 20
#: What SQLite says of a disk that is full or ill: the low byte of its codes.
DISK_CODES = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
PRIMARY_CODE = 0xFF
#: A log's rows are counted in chapters (see `_retention.py`).
_CHAPTERS = """
CREATE TABLE chapters (
    queue INTEGER NOT NULL,
    first INTEGER NOT NULL,        -- offset of its first row
    bytes INTEGER NOT NULL,
    at REAL NOT NULL,              -- Unix time of its last row
    PRIMARY KEY (queue, first)
) WITHOUT ROWID;
"""

_SCHEMA = f"""
BEGIN;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE exchanges (name TEXT PRIMARY KEY, kind TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE queues (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
    arguments TEXT NOT NULL  -- JSON
);
CREATE TABLE bindings (
    exchange TEXT NOT NULL, key TEXT NOT NULL, queue INTEGER NOT NULL, PRIMARY KEY (exchange, key, queue)
) WITHOUT ROWID;
CREATE TABLE parts (
    offset INTEGER PRIMARY KEY AUTOINCREMENT,
    queue INTEGER NOT NULL,
    at REAL NOT NULL,              -- Unix time of the publish
    key TEXT NOT NULL,
    expires_at REAL,               -- Unix time; a queue's only
    owner TEXT,                    -- who holds it unacked; a queue's only
    returns INTEGER NOT NULL DEFAULT 0,  -- how often it was handed out and came back
    message_id TEXT NOT NULL, kind TEXT NOT NULL, part INTEGER NOT NULL, parts INTEGER NOT NULL,
    nbytes INTEGER NOT NULL, crc32 INTEGER NOT NULL, user_id TEXT NOT NULL,
    size INTEGER NOT NULL,         -- bytes of this body
    segment TEXT, position INTEGER,  -- where a large body lies; body is NULL then
    body BLOB
);
CREATE INDEX parts_by_queue ON parts (queue, offset);
CREATE INDEX parts_expiring ON parts (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX parts_held ON parts (owner) WHERE owner IS NOT NULL;
CREATE INDEX parts_in_segments ON parts (segment) WHERE segment IS NOT NULL;
{_CHAPTERS}
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""


class NoRoom(BrokerUnreachable):
    """Raised when the disk doesn't take a write: it is full, or ill. Nothing of the write is there."""


class Database:
    """A connection for all threads of one broker object, who use it one at a time.

    Raises:
        ConfigError: the folder can't be used, or holds another program's or a newer Warren's database.
        BrokerUnreachable: another process holds the lock for too long.
    """

    def __init__(self, folder: Path, stop: threading.Event | None) -> None:
        self.folder = folder
        self._stop = stop or threading.Event()
        self._mutex = threading.RLock()
        self._closed = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locks.open_lock(folder / LOCK)
        except OSError as error:
            raise ConfigError(f"the log folder {folder} can't be used: {error.strerror}") from error
        try:
            self._connection = self.patiently(self._open)
        except BaseException:
            _locks.close_lock(self._lock)
            raise

    def read(self, sql: str, values: Sequence[object] = ()) -> list[Any]:
        """All rows of a query. No cursor stays open, since that would keep the write-ahead log growing."""
        with self._mutex, self._mapped_errors():
            self._check_open()
            return self._connection.execute(sql, values).fetchall()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: committed at the end of the block, undone if it raises.

        Raises:
            BrokerUnreachable: the database doesn't take the write, is closed, or locked for too long.
        """
        with self.locked(), self._mapped_errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps all other writers out, without a transaction."""
        with self._mutex:
            self._check_open()
            with _locks.held(self._lock, self._stop):
                yield

    def patiently(self, write: Callable[[], Result]) -> Result:
        """What a write returns, which is tried until the disk has room for it, or it is time to stop.

        Raises:
            NoRoom: it was time to stop.
        """
        try:
            return write()
        except NoRoom:
            return retrying(NoRoom, stop=self._stop)(write)

    def close(self) -> None:
        """Closes the connection; any use after that is BrokerUnreachable."""
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            self._connection.close()
            _locks.close_lock(self._lock)

    def _open(self) -> sqlite3.Connection:
        path = self.folder / FILE
        with _locks.held(self._lock, self._stop):
            try:
                connection = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
                try:
                    _prepare(connection, path)
                except BaseException:
                    connection.close()
                    raise
            except sqlite3.Error as error:
                if _is_the_disk(error):
                    raise NoRoom(f"{path} can't be opened ({error}): make room on its disk") from error
                raise ConfigError(f"{path} can't be used as a log: {error}; choose another folder") from error
        return connection

    def _check_open(self) -> None:
        if self._closed:
            raise BrokerUnreachable(f"the connection to the log in {self.folder} is closed")

    @contextmanager
    def _mapped_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise (NoRoom if _is_the_disk(error) else BrokerUnreachable)(
                f"the log in {self.folder} failed ({error}): see to the disk, and make room there"
            ) from error


def _is_the_disk(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & PRIMARY_CODE in DISK_CODES


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application != APPLICATION and (application or version or tables):
        raise ConfigError(f"{path} belongs to another program: choose another folder")
    if version > SCHEMA_VERSION:
        raise ConfigError(f"{path} was made by a newer Warren: upgrade this one, or choose another folder")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
    if not tables:
        connection.executescript(_SCHEMA)
    elif version < SCHEMA_VERSION:
        connection.executescript(f"BEGIN; {_CHAPTERS} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
