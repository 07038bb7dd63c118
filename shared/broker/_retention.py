"""Logs that lose their oldest rows, as their queue's arguments say; functions for the embedded broker.

A log is counted in chapters, as RabbitMQ's is in segments: what brings a chapter to
`x-stream-max-segment-size-bytes` ends it, and the next publish begins another. Then the oldest chapters go
that the log has beyond `x-max-length-bytes`, or that are older than `x-max-age` as a whole. Age never takes
the two newest: a federation that rested for long finds its model again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from shared.broker._database import Database
from shared.broker._queues import Connection, Target
from shared.broker.port import Part

#: What a row takes beside its body, about.
ROW_BYTES = 300
#: How many rows one transaction drops: others get their turn between two.
_DROPS = 200


class Chapter(NamedTuple):
    """A piece of a log: its first offset, its bytes, and the Unix time of its last row."""

    first: int
    nbytes: int
    at: float


class Tally:
    """What one publish adds to logs. `first` is the first offset in any, or -1."""

    def __init__(self) -> None:
        self.first = -1
        self._added: dict[int, tuple[Target, int, int]] = {}

    def add(self, log: Target, offset: int, part: Part) -> None:
        """Notes a row."""
        if self.first < 0:
            self.first = offset
        _, begin, nbytes = self._added.get(log.id, (log, offset, 0))
        self._added[log.id] = log, begin, nbytes + len(part.body) + ROW_BYTES

    def book(self, db: Connection, now: float) -> list[Target]:
        """Writes it down; returns the logs that began another chapter."""
        return [log for log, first, nbytes in self._added.values() if _book(db, log, first, nbytes, now)]


def cut(database: Database, log: Target) -> int:
    """Drops what the log has beyond its limits, some rows at a time; returns how many."""
    dropped = 0
    while True:
        with database.writing() as db:
            chapters = _chapters(db, log)
            kept = _kept(chapters, log, time.time())
            if len(kept) == len(chapters):
                return dropped
            batch = _drop(db, log, kept[0].first)
            if batch < _DROPS:
                db.execute("DELETE FROM chapters WHERE queue = ? AND first < ?", (log.id, kept[0].first))
            dropped += batch


def held(database: Database, log: str) -> int:
    """The bytes in a log, as its limit counts them."""
    rows = database.read(
        "SELECT coalesce(sum(bytes), 0) FROM chapters WHERE queue = (SELECT id FROM queues WHERE name = ?)",
        (log,),
    )
    return int(rows[0][0])


def _book(db: Connection, log: Target, first: int, nbytes: int, now: float) -> bool:
    last = db.execute(
        "SELECT first, bytes FROM chapters WHERE queue = ? ORDER BY first DESC LIMIT 1", (log.id,)
    ).fetchone()
    size = log.arguments.get("x-stream-max-segment-size-bytes")
    if last is None or (size is not None and last[1] >= size):
        db.execute("INSERT INTO chapters VALUES (?, ?, ?, ?)", (log.id, first, nbytes, now))
        return last is not None
    db.execute(
        "UPDATE chapters SET bytes = bytes + ?, at = ? WHERE queue = ? AND first = ?",
        (nbytes, now, log.id, last[0]),
    )
    return False


def _chapters(db: Connection, log: Target) -> list[Chapter]:
    rows = db.execute("SELECT first, bytes, at FROM chapters WHERE queue = ? ORDER BY first", (log.id,))
    return [Chapter(*row) for row in rows.fetchall()]


def _kept(chapters: Sequence[Chapter], log: Target, now: float) -> Sequence[Chapter]:
    """The chapters, oldest first, without those that are to go."""
    limit = log.arguments.get("x-max-length-bytes", float("inf"))
    age = log.arguments.get("x-max-age")
    oldest = now - int(age[:-1]) if age else float("-inf")
    excess = sum(chapter.nbytes for chapter in chapters) - limit
    gone = 0
    for chapter in chapters[:-1]:
        too_old = chapter.at < oldest and gone < len(chapters) - 2
        if excess <= 0 and not too_old:
            break
        excess -= chapter.nbytes
        gone += 1
    return chapters[gone:]


def _drop(db: Connection, log: Target, before: int) -> int:
    """Drops some of the log's rows before an offset; returns how many."""
    return db.execute(
        "DELETE FROM parts WHERE offset IN "
        "(SELECT offset FROM parts WHERE queue = ? AND offset < ? ORDER BY offset LIMIT ?)",
        (log.id, before, _DROPS),
    ).rowcount
