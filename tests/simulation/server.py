"""The simulated broker's own side: exchanges, logs and boxes, and what lies in them.

It forgets nothing unless it is told to (`lose`). What is in it is for the invariants to read: every part of
a log with the true time at which it came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Protocol

from shared.broker.port import Part, Publication
from shared.errors import NotDeclaredError, RefusedError, UnroutableError
from shared.topology import Exchange, Queue
from tests.simulation.scheduler import Scheduler


@dataclass(eq=False)
class Message:
    """What lies in a box: dead at `expires_at`, in true seconds; was taken back `returns` times."""

    part: Part
    key: str
    expires_at: float | None
    returns: int = 0


class Taker(Protocol):
    """A consumer, as its box sees it."""

    def has_room(self) -> bool:
        """Whether it may be handed one more."""

    def hand(self, message: Message) -> None:
        """It holds the message from now on."""


@dataclass
class Log:
    """Every part in order, and `at`: when it came. `followers` are told of each."""

    name: str
    parts: list[Part] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    followers: list[Callable[[], None]] = field(default_factory=list)
    next_offset: int = 0


@dataclass
class Box:
    """Messages that wait for a taker."""

    name: str
    arguments: Mapping[str, str | int]
    ready: deque[Message] = field(default_factory=deque)
    takers: list[Taker] = field(default_factory=list)
    held: int = 0


class Server:
    """One broker. `gaps`: its logs' offsets are not contiguous. `shared`: all logs count in one row."""

    def __init__(self, scheduler: Scheduler, rng: Random, *, gaps: bool, shared: bool) -> None:
        self.logs: dict[str, Log] = {}
        self.boxes: dict[str, Box] = {}
        self.waiting: dict[str, list[Callable[[], None]]] = {}
        self._scheduler = scheduler
        self._rng = rng
        self._gaps = gaps
        self._shared = shared
        self._next_offset = 0
        self._exchanges: dict[str, Exchange] = {}
        self._queues: dict[str, Queue] = {}

    # --- names

    def declare(self, exchanges: Iterable[Exchange], queues: Iterable[Queue]) -> None:
        for exchange in exchanges:
            if self._exchanges.setdefault(exchange.name, exchange) != exchange:
                raise RefusedError(f"exchange {exchange.name} is there as another")
        for queue in queues:
            if self._queues.setdefault(queue.name, queue) != queue:
                raise RefusedError(f"queue {queue.name} is there with other arguments")
            if queue.kind == "stream":
                self.logs.setdefault(queue.name, Log(queue.name))
            else:
                self.boxes.setdefault(queue.name, Box(queue.name, queue.arguments))
            for call in self.waiting.pop(queue.name, []):
                call()

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            for known in (self._exchanges, self._queues, self.logs, self.boxes):
                known.pop(name, None)  # type: ignore[attr-defined]

    def when_declared(self, queue: str, call: Callable[[], None]) -> None:
        """Calls when there is such a queue."""
        if queue in self._queues:
            call()
        else:
            self.waiting.setdefault(queue, []).append(call)

    # --- what comes

    def take(self, publication: Publication, login: str) -> int:
        """Puts a part where it belongs; returns its offset in a log, or -1.

        Raises:
            NotDeclaredError, UnroutableError: as the port says.
        """
        exchange = self._exchanges.get(publication.exchange)
        if exchange is None:
            raise NotDeclaredError(f"exchange {publication.exchange} is not declared")
        queues = [queue for queue in self._queues.values() if _is_bound(queue, exchange, publication.key)]
        if not queues:
            raise UnroutableError(f"no queue takes {publication.key!r} from {exchange.name}")
        part = replace(publication.part, user_id=login, body=bytes(publication.part.body))
        offset = -1
        for queue in queues:
            if queue.kind == "stream":
                offset = self._append(self.logs[queue.name], part)
            else:
                self.put(
                    self.boxes[queue.name], Message(part, publication.key, self._expiry(queue, publication))
                )
        return offset

    def _append(self, log: Log, part: Part) -> int:
        gap = self._rng.randrange(3) if self._gaps else 0
        offset = (self._next_offset if self._shared else log.next_offset) + gap
        log.next_offset = self._next_offset = offset + 1
        log.parts.append(replace(part, offset=offset))
        log.at.append(self._scheduler.now)
        for follower in tuple(log.followers):
            follower()
        return offset

    def _expiry(self, queue: Queue, publication: Publication) -> float | None:
        limits = [publication.expires_s] if publication.expires_s is not None else []
        if "x-message-ttl" in queue.arguments:
            limits.append(int(queue.arguments["x-message-ttl"]) / 1000)
        return self._scheduler.now + min(limits) if limits else None

    # --- boxes

    def put(self, box: Box, message: Message, *, first: bool = False) -> None:
        """Makes a message ready, and hands it out if somebody has room."""
        if first:
            box.ready.appendleft(message)
        else:
            box.ready.append(message)
        most = box.arguments.get("x-max-length")
        if most is not None and len(box.ready) > int(most):
            box.ready.popleft()
        self.serve(box)
        if message.expires_at is not None and message in box.ready:
            self._scheduler.after(message.expires_at - self._scheduler.now, lambda: self._expire(box))

    def take_back(self, box: Box, message: Message) -> None:
        """A taker gave it up, or is gone."""
        box.held -= 1
        message.returns += 1
        limit = box.arguments.get("x-delivery-limit")
        if limit is not None and message.returns > int(limit):
            self._bury(box, message)
        else:
            self.put(box, message, first=True)

    def serve(self, box: Box) -> None:
        """Hands out what is ready while anybody has room."""
        self._expire(box)
        while box.ready:
            takers = [taker for taker in box.takers if taker.has_room()]
            if not takers:
                return
            box.held += 1
            self._rng.choice(takers).hand(box.ready.popleft())

    def _expire(self, box: Box) -> None:
        now = self._scheduler.now
        over = [m for m in box.ready if m.expires_at is not None and m.expires_at <= now]
        for message in over:
            box.ready.remove(message)
            self._bury(box, message)

    def _bury(self, box: Box, message: Message) -> None:
        exchange = self._exchanges.get(str(box.arguments.get("x-dead-letter-exchange", "")))
        if exchange is None:
            return
        for queue in self._queues.values():
            if _is_bound(queue, exchange, message.key):
                self.put(self.boxes[queue.name], Message(message.part, message.key, None))

    # --- what an outage may do

    def lose(self, log: Log, count: int) -> None:
        """Forgets the last parts of a log, though they were confirmed; their offsets are given out again."""
        if not count:
            return
        del log.parts[-count:]
        del log.at[-count:]
        log.next_offset = log.parts[-1].offset + 1 if log.parts else 0


def _is_bound(queue: Queue, exchange: Exchange, key: str) -> bool:
    if queue.exchange != exchange.name:
        return False
    return exchange.kind == "fanout" or queue.key == key or (exchange.kind == "topic" and queue.key == "#")
