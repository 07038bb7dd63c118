"""Follows and consumes of the embedded broker: what is out at whom, and what comes next."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from shared.broker import _queues
from shared.broker._database import Database
from shared.broker._queues import Row
from shared.broker._segments import Segments
from shared.broker._wakeup import Bells
from shared.broker.port import Delivery, Sink

#: The most parts handed to one sink before the others get their turn.
BATCH = 64


@dataclass(frozen=True)
class Folder:
    """A broker object's share in its folder; `owner` is its name there."""

    database: Database
    segments: Segments
    bells: Bells
    owner: str


@dataclass(frozen=True)
class Terms:
    """What a subscription was asked for. `feed` and `forget` tell the thread that serves it."""

    queue: str
    sink: Sink
    prefetch: int
    feed: Callable[[Subscription], None]
    forget: Callable[[Subscription], None]


class Subscription(ABC):
    """Hands out to one sink while credit lasts. Base of the two kinds.

    `held` are the offsets that are out, each with its row's `returns`. Settling one takes it from there in
    one step of the dict; only handing out and closing hold the lock, so an ack never waits for a sink.
    """

    def __init__(self, folder: Folder, terms: Terms) -> None:
        self.queue = terms.queue
        self.held: dict[int, int] = {}
        self._folder = folder
        self._terms = terms
        self._lock = threading.RLock()
        self._closed = False
        self._hungry = False

    def pump(self) -> bool:
        """Hands out what there is and credit allows; returns whether there may be more at once.

        Raises:
            OSError: a body can't be read; it and those behind it stay.
            BrokerUnreachable: the database can't be used.
        """
        with self._lock:
            # Set before the credit is counted, so that an ack from here on asks for another round.
            self._hungry = True
            room = min(self._terms.prefetch - len(self.held), BATCH)
            if self._closed or room <= 0:
                return False
            rows = self._take(room)
            self._hungry = len(rows) == room
            self._hand_out(rows)
            return self._hungry

    def settled(self, offset: int) -> None:
        """Makes room for another delivery."""
        if self.held.pop(offset, None) is not None and self._hungry:
            self._terms.feed(self)

    def close(self) -> None:
        self._closed = True
        try:
            with self._lock:
                self._return(tuple(self.held))
        finally:
            self._terms.forget(self)

    def _hand_out(self, rows: Sequence[Row]) -> None:
        for index, row in enumerate(rows):
            if self._closed:
                return
            try:
                delivery = self._delivery(row)
            except OSError:
                if not _queues.is_there(self._folder.database, row[0]):
                    self.held.pop(row[0], None)  # dropped between the look at its row and that at its body
                    continue
                self._return([row[0] for row in rows[index:]])
                raise
            self._terms.sink(delivery)

    @abstractmethod
    def _take(self, room: int) -> list[Row]:
        """The next rows, at most `room` of them, held from now on."""

    @abstractmethod
    def _delivery(self, row: Row) -> Delivery:
        """The row as it is handed out."""

    @abstractmethod
    def _return(self, offsets: Sequence[int]) -> None:
        """Gives what is held back."""


class Follower(Subscription):
    """Reads a log behind `position`, an offset."""

    def __init__(self, folder: Folder, terms: Terms, position: int) -> None:
        super().__init__(folder, terms)
        self._position = position

    def _take(self, room: int) -> list[Row]:
        rows = _queues.log_rows(self._folder.database, self.queue, self._position, room)
        if rows:
            self._position = rows[-1][0]
            self.held.update((row[0], 0) for row in rows)
        return rows

    def _delivery(self, row: Row) -> Delivery:
        offset = row[0]
        part = _queues.part_of(row, self._folder.segments, offset)
        return Delivery(part, lambda: self.settled(offset))

    def _return(self, offsets: Sequence[int]) -> None:
        for offset in offsets:
            self.held.pop(offset, None)
        if offsets:
            self._position = offsets[0] - 1


class Consumer(Subscription):
    """Takes a queue's messages, each for itself until it is settled."""

    def _take(self, room: int) -> list[Row]:
        now = time.time()
        # Most wake-ups of competing consumers find nothing, and need no lock to see it.
        if not _queues.has_ready(self._folder.database, self.queue, now):
            return []
        with self._folder.database.writing() as db:
            rows = _queues.claim(db, self.queue, self._folder.owner, now, room)
        self.held.update((row[0], row[1]) for row in rows)
        return rows

    def _delivery(self, row: Row) -> Delivery:
        offset, returns = row[:2]
        part = _queues.part_of(row, self._folder.segments, -1)
        ack = Ack(self, self._folder, offset, returns)
        return Delivery(part, ack, lambda: self._return_one(offset, returns), returns)

    def _return_one(self, offset: int, returns: int) -> None:
        if self.held.get(offset) == returns:
            self._return([offset])

    def _return(self, offsets: Sequence[int]) -> None:
        given = [(offset, self.held[offset]) for offset in offsets if offset in self.held]
        if given:
            give_back(self._folder, given)
        for offset, _ in given:
            self.settled(offset)


@dataclass(frozen=True, eq=False)
class Ack:
    """Acks one handing out of a queue's message; an object, for `publish` to do it in its transaction."""

    consumer: Consumer
    folder: Folder
    offset: int
    returns: int

    def __call__(self) -> None:
        if self.consumer.held.get(self.offset) == self.returns:
            self.folder.database.patiently(self._write)
            self.settled()

    def _write(self) -> None:
        with self.folder.database.writing() as db:
            self.write(db)

    def write(self, db: _queues.Connection) -> None:
        """The ack itself, within a transaction."""
        _queues.ack(db, self.folder.owner, self.offset, self.returns)

    def settled(self) -> None:
        """What follows when that transaction is committed."""
        if self.consumer.held.get(self.offset) == self.returns:
            self.consumer.settled(self.offset)


def give_back(folder: Folder, held: Iterable[tuple[int, int]]) -> None:
    """Makes messages ready again that this broker object holds, and wakes who waits for such."""
    given = tuple(held)

    def write() -> set[str]:
        with folder.database.writing() as db:
            return set(_queues.give_back(db, folder.owner, given, time.time()))

    folder.bells.ring(folder.database.patiently(write))
