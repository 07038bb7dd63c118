"""Bits flipped in a federation's logs, behind the broker's back."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from coordinator.reading import read_log
from shared.broker.connect import connect
from shared.broker.port import FIRST, Part, Publication
from shared.messages import Mark
from shared.topology import Topology


@dataclass(frozen=True)
class Body:
    """A part's body in an embedded broker's folder: in the database, or in a segment file."""

    folder: Path
    offset: int
    kind: str
    size: int
    segment: str | None
    position: int | None

    def flip(self, at: int | str, repair: bool) -> None:
        """Flips the lowest bit of the byte `at` (negative: from the end), or of a header's text of that name;
        `repair`: also its checksum.
        """
        with _database(self.folder) as db:
            if self.segment is None:
                (found,) = db.execute("SELECT body FROM parts WHERE offset = ?", (self.offset,)).fetchone()
                body = _flipped(found, at)
                db.execute("UPDATE parts SET body = ? WHERE offset = ?", (body, self.offset))
            else:
                body = self._flip_in_segment(at)
            if repair:
                db.execute("UPDATE parts SET crc32 = ? WHERE offset = ?", (zlib.crc32(body), self.offset))

    def remove(self) -> None:
        with _database(self.folder) as db:
            db.execute("DELETE FROM parts WHERE offset = ?", (self.offset,))

    def _flip_in_segment(self, at: int | str) -> bytes:
        with (self.folder / "segments" / str(self.segment)).open("r+b") as file:
            file.seek(self.position or 0)
            body = _flipped(file.read(self.size), at)
            file.seek(self.position or 0)
            file.write(body)
        return body


def bodies(folder: Path, log: str) -> list[Body]:
    """The messages' parts in the log whose name ends so, in order."""
    with _database(folder) as db:
        rows = db.execute(
            "SELECT offset, kind, size, segment, position FROM parts "
            "WHERE queue = (SELECT id FROM queues WHERE name LIKE ?) AND kind != 'mark' ORDER BY offset",
            (f"%.{log}",),
        ).fetchall()
    return [Body(folder, *row) for row in rows]


def rewrite_results(url: str, federation: str, change: Callable[[Part], Part]) -> None:
    """Deletes the results log at a RabbitMQ and writes it again, at the same offsets, with changed parts."""
    topology = Topology(federation)
    (log,) = [queue for queue in topology.queues() if queue.name == topology.results_log]
    with closing(connect(url, "coordinator")) as broker:
        parts = list(read_log(broker, topology.results, federation, FIRST))
        broker.delete([log.name])
        broker.declare((), [log])
        for part in parts:
            changed = part if part.kind == Mark.KIND else change(part)
            broker.publish([Publication(topology.results, part.kind, changed)])
        again = list(read_log(broker, topology.results, federation, FIRST))
    assert [part.offset for part in again] == [part.offset for part in parts]


def flipped(part: Part, at: int | str, repair: bool) -> Part:
    """The part with the lowest bit of a byte flipped."""
    body = _flipped(part.body, at)
    return replace(part, body=body, crc32=zlib.crc32(body) if repair else part.crc32)


def _flipped(body: bytes | memoryview, at: int | str) -> bytes:
    changed = bytearray(body)
    # Some bytes into the text, behind its name and its length.
    place = changed.index(at.encode()) + len(at) + 4 if isinstance(at, str) else at
    changed[place] ^= 1
    return bytes(changed)


@contextmanager
def _database(folder: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(folder / "broker.db")) as db, db:
        yield db
