"""Large bodies, in append-only files beside the database.

A process writes to a file of its own, and holds a lock on it while it does; a body is written before the
row that names it. So whatever a killed process leaves behind its last row is never read, and a file that
nobody has locked and no row names can go.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from shared.broker import _locks
from shared.broker._database import Database, NoRoom
from shared.broker.port import Part

#: Bodies up to this size lie in the database.
SMALL_BYTES = 64 * 1024
#: A file that has reached this size gets no more, and no more than a segment of any log here.
SEGMENT_BYTES = 256 * 1024 * 1024

#: Where a large body lies: the file's name, and the byte it starts at.
Place = tuple[str, int]


class Segments:
    """The segment files of one folder, and the one that this broker object writes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._folder = database.folder / "segments"
        self._mutex = threading.Lock()
        self._name = ""
        self._descriptor = -1
        self._end = 0
        self._limit = SEGMENT_BYTES

    @contextmanager
    def storing(self, parts: Sequence[Part]) -> Iterator[list[Place | None]]:
        """Writes the large bodies, and yields each part's place (None: small, for the database).

        If the block raises, what was written is overwritten by the next.

        Raises:
            NoRoom: the disk doesn't take them.
        """
        if all(len(part.body) <= SMALL_BYTES for part in parts):
            yield [None] * len(parts)
            return
        with self._mutex:
            try:
                places, end = self._write(parts)
            except OSError as error:
                raise NoRoom(
                    f"{self._folder} can't be written ({error.strerror}): make room on its disk"
                ) from error
            yield places
            self._end = end

    def read(self, segment: str, position: int, size: int) -> bytes:
        """A body.

        Raises:
            OSError: the file isn't there, or is too short.
        """
        descriptor = os.open(self._folder / segment, os.O_RDONLY | os.O_CLOEXEC)
        try:
            body = os.pread(descriptor, size, position)
        finally:
            os.close(descriptor)
        if len(body) != size:
            raise OSError(f"segment {segment} ends within a message, at byte {position + len(body)}")
        return body

    def damage(self) -> list[str]:
        """The files that lack bytes which rows name."""
        found = []
        rows = "SELECT segment, max(position + size) FROM parts WHERE segment IS NOT NULL GROUP BY segment"
        for name, end in self._database.read(rows):
            path = self._folder / name
            size = path.stat().st_size if path.exists() else 0
            # Rows may have been dropped meanwhile, and then their file.
            lacking = "SELECT 1 FROM parts WHERE segment = ? AND position + size > ? LIMIT 1"
            if size < end and self._database.read(lacking, (name, size)):
                found.append(f"segment {name} has {size} bytes of {end}")
        return found

    def sweep(self) -> None:
        """Removes the files that no row names, except those that other processes are writing to."""
        with self._mutex, self._database.locked():
            self._finish()
            self._remove_unnamed()

    def close(self) -> None:
        """Lets go of the file that was written to."""
        with self._mutex:
            self._finish()

    def _write(self, parts: Sequence[Part]) -> tuple[list[Place | None], int]:
        if self._descriptor < 0 or self._end >= self._limit:
            self._begin()
        places: list[Place | None] = []
        end = self._end
        for part in parts:
            if len(part.body) <= SMALL_BYTES:
                places.append(None)
                continue
            places.append((self._name, end))
            end = _write_at(self._descriptor, memoryview(part.body), end)
        return places, end

    def _begin(self) -> None:
        # Under the lock, so that no sweep finds the new file before it is locked.
        with self._database.locked():
            self._finish()
            self._remove_unnamed()
            self._name = secrets.token_hex(8)
            self._descriptor = _locks.open_lock(self._folder / self._name)
            _locks.take(self._descriptor)
            self._end = 0
            self._limit = self._smallest()

    def _smallest(self) -> int:
        """The size from which on a file would hold space for longer than the logs that it is of."""
        logs = self._database.read("SELECT arguments FROM queues WHERE kind = 'stream'")
        of_logs = [json.loads(arguments).get("x-stream-max-segment-size-bytes") for (arguments,) in logs]
        return min([SEGMENT_BYTES, *(int(size) for size in of_logs if size)])

    def _finish(self) -> None:
        if self._descriptor >= 0:
            _locks.close_lock(self._descriptor)
            self._descriptor = -1

    def _remove_unnamed(self) -> None:
        self._folder.mkdir(exist_ok=True)
        for path in self._folder.iterdir():
            named = self._database.read("SELECT 1 FROM parts WHERE segment = ? LIMIT 1", (path.name,))
            if not named and _locks.is_free(path):
                path.unlink(missing_ok=True)


def _write_at(descriptor: int, body: memoryview, position: int) -> int:
    """Writes all of `body`; returns the position behind it."""
    while len(body):
        written = os.pwrite(descriptor, body, position)
        body, position = body[written:], position + written
    return position
