"""Subscriptions at RabbitMQ, through lost connections: what they share, and consumers of queues."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from shared.broker._amqp import (
    Channel,
    Connection,
    code_of,
    headers_of,
    is_down,
    number,
    part_of,
    refusal_of,
    text_of,
)
from shared.broker._link import Link
from shared.broker.port import Delivery, Sink
from shared.errors import BrokerUnreachable, WarrenError
from shared.retry import Complaint, Pauses

log = logging.getLogger(__name__)

#: What a cluster's node says of a stream that only others have copies of.
ELSEWHERE = "replica on the local node"
#: How long the broker may take to answer the end of a consumer.
CLOSE_S = 5.0
#: And how long to begin one.
ANSWER_S = 60.0


class Settle:
    """The right to ack or give back one delivery, once, on the channel that it came on; from any thread."""

    __slots__ = ("_channel", "_link", "_settled", "_tag", "_then")

    def __init__(self, link: Link, channel: Channel, tag: int, then: Callable[[], None]) -> None:
        """`then` is called on the link's thread once it is settled, whether that channel is gone or not."""
        self._link = link
        self._channel = channel
        self._tag = tag
        self._then = then
        self._settled = False

    def ack(self) -> None:
        """Done with; does nothing when that channel is gone."""
        self._settle(lambda channel: channel.basic_ack(self._tag))

    def give_back(self) -> None:
        """For another consumer; does nothing when that channel is gone."""
        self._settle(lambda channel: channel.basic_nack(self._tag, requeue=True))

    def _settle(self, how: Callable[[Channel], None]) -> None:
        def on_thread() -> None:
            if self._settled:
                return
            self._settled = True
            if self._channel.is_open:
                how(self._channel)
            self._then()

        try:
            self._link.run(on_thread)
        except BrokerUnreachable:
            log.debug("a delivery of a connection that is gone was settled")


class Reader(ABC):
    """Base of both subscriptions: keeps a channel with one consumer on a link. A `Resident`.

    `started` is done when deliveries may come, or when the wait for the queue has begun; `forget` is called
    when it is closed.
    """

    forget: Callable[[Reader], None]

    def __init__(self, link: Link, queue: str, sink: Sink, prefetch: int) -> None:
        self.started: Future[None] = Future()
        self._link = link
        self._queue = queue
        self._sink = sink
        self._prefetch = prefetch
        self._pauses = Pauses()
        self._complaint = Complaint()
        self._consuming = False
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self._waiting = False
        self._gone: Future[None] | None = None

    def close(self) -> None:
        self.forget(self)
        gone: Future[None] = Future()
        try:
            self._link.run(lambda: self._shut(gone))
        except BrokerUnreachable:
            return  # with the link it ended too
        if not self._link.is_mine():
            gone.result()

    def up(self, connection: Connection) -> None:
        self._connection = connection
        self._open()

    def down(self) -> None:
        self._connection = self._channel = None

    def give_up(self, error: WarrenError) -> None:
        if not self.started.done():
            self.started.set_exception(error)

    def _open(self) -> None:
        connection = self._connection
        if connection is not None and connection.is_open and self._channel is None and self._gone is None:
            connection.channel(on_open_callback=self._on_open)

    def _on_open(self, channel: Channel) -> None:
        if self._channel is not None or self._gone is not None:
            channel.close()
            return
        self._channel = channel
        channel.add_on_close_callback(self._on_close)
        channel.add_on_cancel_callback(lambda _: self._on_cancel(channel))
        channel.basic_qos(prefetch_count=self._prefetch)
        channel.basic_consume(
            self._queue,
            self._on_message,
            arguments=self._arguments(),
            callback=lambda _: self._on_consuming(),
        )
        self._consuming = False
        self._link.later(ANSWER_S, lambda: self._on_no_answer(channel))

    def _on_no_answer(self, channel: Channel) -> None:
        """A queue that RabbitMQ has lost gives no answer, until the coordinator makes it anew."""
        if channel is self._channel and not self._consuming and self._connection is not None:
            log.warning("the broker has not let us read %s for %g s: connecting again", self._queue, ANSWER_S)
            self._connection.abort("no answer to a consume")

    def _on_consuming(self) -> None:
        self._consuming = True
        self._pauses.reset()
        if self._waiting:
            log.info("%s is there now", self._queue)
            self._waiting = False
        self._start()

    def _on_message(self, channel: Channel, method: Any, properties: Any, body: bytes | memoryview) -> None:
        if self._gone is not None or channel is not self._channel:
            return
        self._take(channel, method, properties, body)

    def _hand_out(self, delivery: Delivery) -> None:
        try:
            self._sink(delivery)
        except Exception:
            log.exception("the sink for %s failed: its connection is made again", self._queue)
            if self._connection is not None:
                self._connection.abort("a sink failed")

    def _on_cancel(self, channel: Channel) -> None:
        """The broker ended the consumer: the queue is gone."""
        if channel is self._channel:
            self._channel = None
            channel.close()
            self._on_deleted()
            self._open_later()

    def _on_close(self, channel: Channel, reason: Exception) -> None:
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)
        if channel is not self._channel or self._connection is None or not self._connection.is_open:
            return  # our own doing, or `down` is next
        self._channel = None
        refusal = refusal_of(reason)
        if ELSEWHERE in text_of(reason):
            self._link.later(
                self._pauses.next(), partial(self._connection.abort, f"{self._queue} isn't there")
            )
            return
        if is_down(reason):
            self._complaint.say(str(refusal))
            self._start()
        elif code_of(reason) == 404:
            self._wait_for_queue()
        elif refusal is not None and not self.started.done():
            self.started.set_exception(refusal)
            return
        else:
            log.warning(
                "%s: the broker ended the reading (%s): beginning again", self._queue, text_of(reason)
            )
        self._open_later()

    def _wait_for_queue(self) -> None:
        if not self._waiting:
            log.info("waiting for %s, which the broker doesn't have yet", self._queue)
            self._waiting = True
        self._start()

    def _start(self) -> None:
        if not self.started.done():
            self.started.set_result(None)

    def _open_later(self) -> None:
        self._link.later(self._pauses.next(), self._open)

    def _shut(self, gone: Future[None]) -> None:
        self._gone = gone
        self._link.remove(self)
        channel, self._channel = self._channel, None
        if channel is None or not channel.is_open:
            gone.set_result(None)
            return
        self._end(channel)
        self._link.later(CLOSE_S, lambda: None if gone.done() else gone.set_result(None))

    def _end(self, channel: Channel) -> None:
        """Ends the channel, and then `_gone`."""
        channel.close()

    @abstractmethod
    def _arguments(self) -> dict[str, object]:
        """The arguments of its `basic.consume`."""

    @abstractmethod
    def _take(self, channel: Channel, method: Any, properties: Any, body: bytes | memoryview) -> None:
        """Something came: hands it out, now or later."""

    @abstractmethod
    def _on_deleted(self) -> None:
        """The queue is gone with all that it held."""


class Consumer(Reader):
    """Takes a queue's messages; closing its channel gives back what is unacked."""

    def _arguments(self) -> dict[str, object]:
        return {"x-priority": 0}  # the default; streams refuse it, and are not to be consumed

    def _take(self, channel: Channel, method: Any, properties: Any, body: bytes | memoryview) -> None:
        settle = Settle(self._link, channel, method.delivery_tag, lambda: None)
        count = number(headers_of(properties), "x-delivery-count", int(method.redelivered))
        self._hand_out(Delivery(part_of(properties, body), settle.ack, settle.give_back, count))

    def _on_deleted(self) -> None:
        """Nothing of it is remembered here."""
