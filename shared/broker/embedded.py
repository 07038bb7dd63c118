"""The broker in a folder: for one machine and several processes, with nothing to install or start.

`broker.db` holds names, order, small messages and who holds what; `segments/` holds large bodies; `owners/`
has a file for each broker object, locked while its process lives. There is no server: each process does
its own reading and writing, wakes the others, and looks every quarter of a second for what died or ran
out of time. Semantics are those of `port.py`; offsets are shared by all queues.

Safe against kills of any process at any moment; after a power cut the last commits may be missing.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from shared.broker import _locks, _queues, _retention
from shared.broker._database import Database
from shared.broker._segments import Place, Segments
from shared.broker._server import Server
from shared.broker._subscriptions import Ack, Consumer, Folder, Follower, Subscription, Terms
from shared.broker._wakeup import Bells
from shared.broker.port import FIRST, NEXT, Delivery, Lost, Publication, Sink
from shared.errors import RefusedError
from shared.topology import Exchange, Queue

log = logging.getLogger(__name__)


def connect(folder: Path, login: str, stop: threading.Event | None = None) -> EmbeddedBroker:
    """Opens the broker in `folder`, which is made if it isn't there; `login` becomes each part's user_id.

    `stop`: gives up waiting for other processes when it is set.

    Raises:
        ConfigError: the folder can't be used, or holds what this Warren can't read.
        BrokerUnreachable: another process keeps it locked.
    """
    return EmbeddedBroker(folder, login, stop)


class EmbeddedBroker:
    """A `Broker` over a folder; usable from any thread. Sinks are called on a thread of its own."""

    def __init__(self, folder: Path, login: str, stop: threading.Event | None = None) -> None:
        self._login = login
        self._database = Database(folder, stop)
        self._segments = Segments(self._database)
        self._bells = Bells(self._database)
        self._owners = folder / "owners"
        owner = secrets.token_hex(8)
        self._folder = Folder(self._database, self._segments, self._bells, owner)
        self._life = self._come_alive(self._owners / owner)
        self._mutex = threading.Lock()
        self._server: Server | None = None
        self._subscriptions: set[Subscription] = set()
        self._closed = False

    def publish(
        self, publications: Sequence[Publication], *, then_ack: Delivery | None = None, locate: bool = False
    ) -> int:
        own = then_ack.ack if then_ack and isinstance(then_ack.ack, Ack) else None
        if own is not None and own.folder is not self._folder:
            own = None
        first, changed, full = self._database.patiently(lambda: self._store(publications, own))
        self._bells.ring(changed)
        if own is not None:
            own.settled()
        elif then_ack is not None:
            then_ack.ack()
        cut = (self._database.patiently(partial(_retention.cut, self._database, log)) for log in full)
        if sum(cut):
            self._segments.sweep()
        return first if locate else -1

    def follow(
        self, log: str, start: int, sink: Sink, *, prefetch: int = 8, lost: Lost | None = None
    ) -> Subscription:
        self._check_kind(log, wants_stream=True)
        terms, server = self._terms(log, sink, prefetch)
        return self._start(Follower(self._folder, terms, self._position(start)), server)

    def consume(self, queue: str, sink: Sink, *, prefetch: int = 1) -> Subscription:
        self._check_kind(queue, wants_stream=False)
        terms, server = self._terms(queue, sink, prefetch)
        return self._start(Consumer(self._folder, terms), server)

    def declare(self, exchanges: Iterable[Exchange], queues: Iterable[Queue]) -> None:
        wanted, made = tuple(exchanges), tuple(queues)
        self._database.patiently(lambda: self._declare(wanted, made))
        self._bells.ring(queue.name for queue in made)

    def delete(self, names: Iterable[str]) -> None:
        with self._database.writing() as db:
            for name in names:
                _queues.delete(db, name)
        self._segments.sweep()

    def held(self, log: str) -> int:
        """The bytes that a log holds, as its limit counts them."""
        return _retention.held(self._database, log)

    def damage(self) -> list[str]:
        """What is wrong with the database, or lacking of its segments; bodies have checksums of their own."""
        found = [text for (text,) in self._database.read("PRAGMA integrity_check(5)") if text != "ok"]
        queues = self._database.read("SELECT name FROM queues WHERE NOT json_valid(arguments)")
        found += [f"the arguments of queue {name} can't be read" for (name,) in queues]
        return found + self._segments.damage()

    def close(self) -> None:
        with self._mutex:
            if self._closed:
                return
            self._closed = True
        for subscription in tuple(self._subscriptions):
            subscription.close()
        if self._server is not None:
            self._server.stop()
        self._segments.close()
        self._bells.close()
        self._database.close()
        (self._owners / self._folder.owner).unlink(missing_ok=True)
        _locks.close_lock(self._life)

    def _declare(self, exchanges: Sequence[Exchange], queues: Sequence[Queue]) -> None:
        with self._database.writing() as db:
            for exchange in exchanges:
                _queues.declare_exchange(db, exchange)
            for queue in queues:
                _queues.declare_queue(db, queue)

    def _store(
        self, publications: Sequence[Publication], ack: Ack | None
    ) -> tuple[int, set[str], list[_queues.Target]]:
        with self._segments.storing([publication.part for publication in publications]) as places:
            return self._write(publications, places, ack)

    def _write(
        self, publications: Sequence[Publication], places: Sequence[Place | None], ack: Ack | None
    ) -> tuple[int, set[str], list[_queues.Target]]:
        """One transaction for all.

        Returns: the first offset in a log, or -1; the queues that changed; the logs that began a chapter.
        """
        now = time.time()
        tally = _retention.Tally()
        changed: set[str] = set()
        routes: dict[tuple[str, str], list[_queues.Target]] = {}
        with self._database.writing() as db:
            for publication, place in zip(publications, places, strict=True):
                route = publication.exchange, publication.key
                if route not in routes:
                    routes[route] = _queues.targets(db, *route)
                for target in routes[route]:
                    offset = _queues.insert(db, target, publication, place, self._login, now)
                    if target.kind == "stream":
                        tally.add(target, offset, publication.part)
                    changed.add(target.name)
            if ack is not None:
                ack.write(db)
            full = tally.book(db, now)
        return tally.first, changed, full

    def _position(self, start: int) -> int:
        """The offset behind which to read."""
        if start == FIRST:
            return 0
        if start != NEXT:
            return start - 1
        rows = self._database.read("SELECT seq FROM sqlite_sequence WHERE name = 'parts'")
        return int(rows[0][0]) if rows else 0

    def _check_kind(self, queue: str, *, wants_stream: bool) -> None:
        rows = self._database.read("SELECT kind FROM queues WHERE name = ?", (queue,))
        if not rows:
            log.info("waiting for the coordinator to declare %s", queue)
        elif (rows[0][0] == "stream") != wants_stream:
            raise RefusedError(f"{queue} is a {rows[0][0]} queue: follow streams, and consume the others")

    def _terms(self, queue: str, sink: Sink, prefetch: int) -> tuple[Terms, Server]:
        with self._mutex:
            if self._server is None:
                self._server = Server(self._bells, self._keep_house)
                self._server.start()
            return Terms(queue, sink, prefetch, self._server.feed, self._forget), self._server

    def _start(self, subscription: Subscription, server: Server) -> Subscription:
        self._subscriptions.add(subscription)
        server.serve(subscription)
        return subscription

    def _forget(self, subscription: Subscription) -> None:
        self._subscriptions.discard(subscription)
        if self._server is not None:
            self._server.forget(subscription)

    def _come_alive(self, path: Path) -> int:
        # Under the lock: nobody buries the dead while a new file isn't locked yet.
        with self._database.locked():
            path.parent.mkdir(exist_ok=True)
            for other in path.parent.iterdir():
                if _locks.is_free(other):
                    other.unlink(missing_ok=True)
            life = _locks.open_lock(path)
            _locks.take(life)
        return life

    def _keep_house(self) -> None:
        """Buries messages whose time is over, and hands on what the dead held."""
        now = time.time()
        changed: set[str] = set()
        if self._database.read("SELECT 1 FROM parts WHERE expires_at <= ? AND owner IS NULL LIMIT 1", (now,)):
            with self._database.writing() as db:
                changed |= _queues.bury_expired(db, now)
        for (owner,) in self._database.read("SELECT DISTINCT owner FROM parts WHERE owner IS NOT NULL"):
            if owner != self._folder.owner and _locks.is_free(self._owners / owner):
                changed |= self._inherit(owner, now)
        self._bells.ring(changed)

    def _inherit(self, owner: str, now: float) -> set[str]:
        log.warning("a process died with messages unacked: they go to others")
        with self._database.writing() as db:
            changed = _queues.give_back_all(db, owner, now)
        (self._owners / owner).unlink(missing_ok=True)
        return changed
