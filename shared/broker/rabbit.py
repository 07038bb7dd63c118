"""The broker at RabbitMQ.

A `RabbitBroker` has one connection for what it publishes, declares and consumes from queues, and one more
for each log it follows. Each connection belongs to a thread of its own (`_link.py`), and may go to any of
the hosts that the URL names.

Safe against kills on RabbitMQ 4; 3.10 may lose confirmed stream messages when it is killed again just
after a restart. Against a power cut it takes three nodes: streams don't fsync.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial

from shared.broker._address import each_host
from shared.broker._errand import declaring, deleting, run
from shared.broker._follower import Follower
from shared.broker._jobs import Job, check_names
from shared.broker._link import Door, Link
from shared.broker._mending import Mender
from shared.broker._nodes import REPLY_TO, Census
from shared.broker._pika import door, new_loop, parameters_of, question, send
from shared.broker._publisher import Publisher
from shared.broker._readers import Consumer, Reader
from shared.broker.port import NEXT, Delivery, Lost, Publication, Sink, Subscription
from shared.errors import UnconfirmedError
from shared.topology import Exchange, Queue

log = logging.getLogger(__name__)

#: How long the broker may confirm nothing; and a cluster, whose dying nodes take confirms with them.
CONFIRM_S = 30.0
CLUSTER_CONFIRM_S = 10.0
#: How long a host may take when nodes are counted.
NODE_PATIENCE_S = 5.0


def connect(
    url: str,
    *,
    login_name: str | None = None,
    patience_s: float | None = None,
    confirm_timeout_s: float | None = None,
    persist: bool = False,
    stop: threading.Event | None = None,
) -> RabbitBroker:
    """The broker at an `amqp://` or `amqps://` URL, which may name several hosts between commas.

    `login_name`: who publishes, as the broker knows it; by default the URL's user. `patience_s`: how long
    those who need a connection wait for one; None: as long as it takes. `confirm_timeout_s`: how long the
    broker may confirm nothing before parts are sent again; None: CONFIRM_S, or CLUSTER_CONFIRM_S. `persist`:
    patience is for the first connection only; later outages are waited out. `stop`, when set, ends waits for
    a connection.

    Raises:
        ConfigError: the URL is malformed.
        RefusedError: the broker doesn't let us in.
        BrokerUnreachable: it doesn't answer in time.
    """
    parameters = [parameters_of(each, patience_s) for each in each_host(url)]
    login = parameters[0].credentials.username if login_name is None else login_name
    doors = [door(each) for each in parameters]
    timeout_s = confirm_timeout_s or (CONFIRM_S if len(doors) == 1 else CLUSTER_CONFIRM_S)
    broker = RabbitBroker(doors, login, patience_s, timeout_s, stop or threading.Event())
    try:
        broker.open()
        if persist:
            broker.wait_out()
    except BaseException:
        broker.close()
        raise
    return broker


class RabbitBroker:
    """A `Broker` at RabbitMQ, made by `connect`. Usable from any thread, but not from a sink."""

    def __init__(
        self,
        doors: Sequence[Door],
        login: str,
        patience_s: float | None,
        confirm_timeout_s: float,
        stop: threading.Event,
    ) -> None:
        self._doors = doors
        self._patience_s = patience_s
        self._timeout_s = confirm_timeout_s
        self._stop = stop
        self._link = self._new_link()
        self._mender = Mender(self._link)
        self._publisher = Publisher(
            self._link, partial(send, login_name=login), confirm_timeout_s, self._mender
        )
        self._subscriptions: set[Subscription] = set()
        self._census = Census(
            doors, lambda door: Link(new_loop(), [door], NODE_PATIENCE_S, stop), question(REPLY_TO)
        )

    def open(self) -> None:
        """Connects."""
        self._link.start()
        self._link.run(lambda: self._link.add(self._publisher))
        self._link.ready.result()

    def wait_out(self) -> None:
        """From now on waits for connections as long as it takes."""
        self._patience_s = None
        self._link.wait_out()

    def publish(
        self, publications: Sequence[Publication], *, then_ack: Delivery | None = None, locate: bool = False
    ) -> int:
        check_names(publications)
        if not locate:
            self._publish(publications, then_ack)
            return -1
        with self._sighting(publications[0]) as seen:
            self._publish(publications, then_ack)
            return seen()

    def follow(
        self, log: str, start: int, sink: Sink, *, prefetch: int = 8, lost: Lost | None = None
    ) -> Subscription:
        link = self._new_link()
        link.start()
        try:
            return self._subscribe(link, Follower(link, log, start, sink, prefetch, lost))
        except BaseException:
            link.close()
            raise

    def consume(self, queue: str, sink: Sink, *, prefetch: int = 1) -> Subscription:
        return self._subscribe(self._link, Consumer(self._link, queue, sink, prefetch))

    def declare(self, exchanges: Iterable[Exchange], queues: Iterable[Queue]) -> None:
        made = tuple(queues)
        self._census.check(made, self._off_thread())
        run(self._off_thread(), declaring(exchanges, made))
        self._mender.remember(made)

    def delete(self, names: Iterable[str]) -> None:
        run(self._off_thread(), deleting(names))

    def close(self) -> None:
        for subscription in tuple(self._subscriptions):
            subscription.close()
        self._link.close()

    def _publish(self, publications: Sequence[Publication], then_ack: Delivery | None) -> None:
        ack = then_ack.ack if then_ack is not None else None
        if publications:
            job = Job(publications, ack)
            self._off_thread().run(lambda: self._publisher.submit(job))
            job.done.result()
        elif ack is not None:
            ack()

    @contextmanager
    def _sighting(self, first: Publication) -> Iterator[Callable[[], int]]:
        """Watches a log from now on; gives a function that waits until it has seen a part there."""
        wanted = first.part.message_id, first.part.part
        found: Future[int] = Future()

        def sink(delivery: Delivery) -> None:
            if found.done():
                return  # and not acked, so that a large message isn't read back whole
            if (delivery.part.message_id, delivery.part.part) == wanted:
                found.set_result(delivery.part.offset)
            else:
                delivery.ack()

        def seen() -> int:
            try:
                return found.result(self._timeout_s)
            except TimeoutError:
                raise UnconfirmedError(f"what was published to {first.exchange} isn't in its log") from None

        subscription = self.follow(f"{first.exchange}.log", NEXT, sink, prefetch=2)
        try:
            yield seen
        finally:
            subscription.close()

    def _subscribe(self, link: Link, reader: Reader) -> Subscription:
        self._off_thread()
        reader.forget = self._subscriptions.discard
        link.run(lambda: link.add(reader))
        try:
            reader.started.result()
        except BaseException:
            reader.close()
            raise
        self._subscriptions.add(reader)
        return reader

    def _off_thread(self) -> Link:
        """The link, for who is going to wait for it.

        Raises:
            RuntimeError: this is its own thread, which would wait for ever.
        """
        if self._link.is_mine():
            raise RuntimeError("a sink only hands on what it gets: use the broker from another thread")
        return self._link

    def _new_link(self) -> Link:
        return Link(new_loop(), self._doors, self._patience_s, self._stop)
