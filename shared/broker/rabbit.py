"""The broker at RabbitMQ; the one file that touches pika.

A `RabbitBroker` has one connection for what it publishes, declares and consumes from queues, and one more
for each log it follows. Each connection belongs to a thread of its own (`_link.py`), and may go to any of
the hosts that the URL names.

Safe against kills on RabbitMQ 4; 3.10 may lose confirmed stream messages when it is killed again just
after a restart. Against a power cut it takes three nodes: streams don't fsync.
"""

from __future__ import annotations

import logging
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import islice
from typing import Any

import pika  # type: ignore[import-untyped]
from pika.adapters.select_connection import IOLoop  # type: ignore[import-untyped]
from pika.adapters.utils.io_services_utils import (  # type: ignore[import-untyped]
    _AsyncPlaintextTransport,
    _AsyncTransportBase,
)
from pika.channel import ContentFrameAssembler  # type: ignore[import-untyped]

from shared.broker._address import each_host
from shared.broker._amqp import Channel, Connection, Loop, why_not, words_of
from shared.broker._errand import declaring, deleting, run
from shared.broker._follower import Follower
from shared.broker._frames import HEADER, Body, Unframer, framed
from shared.broker._jobs import Job, check_names
from shared.broker._link import Door, Link
from shared.broker._mending import Mender
from shared.broker._nodes import REPLY_TO, Census
from shared.broker._publisher import Publisher
from shared.broker._readers import Consumer, Reader
from shared.broker.port import NEXT, Delivery, Lost, Publication, Sink, Subscription
from shared.errors import ConfigError, UnconfirmedError, WarrenError
from shared.topology import Exchange, Queue

log = logging.getLogger(__name__)

HEARTBEAT_S = 30
#: How long connecting may take: the socket, and with the login.
SOCKET_TIMEOUT_S = 10.0
LOGIN_TIMEOUT_S = 15.0
#: How long the broker may confirm nothing; and a cluster, whose dying nodes take confirms with them.
CONFIRM_S = 30.0
CLUSTER_CONFIRM_S = 10.0
#: How long a host may take when nodes are counted.
NODE_PATIENCE_S = 5.0
#: What pika raises when it decodes a delivery's properties that make no sense.
_UNREADABLE = (
    ArithmeticError, LookupError, OSError, RecursionError, TypeError, ValueError, struct.error,
    pika.exceptions.AMQPError,
)  # fmt: skip

#: Most buffers in one send; systems take 1024.
_GATHERED = 128

# pika reads 4 KiB at a time. Above 128 KiB the system would be asked for memory anew each time.
_AsyncTransportBase._MAX_RECV_BYTES = 64 * 1024
_AsyncTransportBase._MAX_CONSUME_BYTES = 1024 * 1024
# What goes wrong is said once, and by us.
logging.getLogger("pika").setLevel(logging.CRITICAL)


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
    parameters = [_parameters(each, patience_s) for each in each_host(url)]
    login = parameters[0].credentials.username if login_name is None else login_name
    doors = [_door(each) for each in parameters]
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
        self._login = login
        self._patience_s = patience_s
        self._timeout_s = confirm_timeout_s
        self._stop = stop
        self._link = self._new_link()
        self._mender = Mender(self._link)
        self._publisher = Publisher(self._link, self._send, confirm_timeout_s, self._mender)
        self._subscriptions: set[Subscription] = set()
        question = pika.BasicProperties(reply_to=REPLY_TO)
        self._census = Census(doors, lambda door: Link(IOLoop(), [door], NODE_PATIENCE_S, stop), question)

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
            if (delivery.part.message_id, delivery.part.part) != wanted:
                delivery.ack()
            elif not found.done():
                found.set_result(delivery.part.offset)

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

    def _send(self, channel: Channel, publication: Publication) -> None:
        part = publication.part
        expires_s = publication.expires_s
        properties = pika.BasicProperties(
            message_id=part.message_id,
            type=part.kind,
            user_id=self._login,
            delivery_mode=2,
            headers={"part": part.part, "parts": part.parts, "bytes": part.nbytes, "crc32": part.crc32},
            expiration=None if expires_s is None else str(max(0, round(expires_s * 1000))),
        )
        method = pika.spec.Basic.Publish(
            exchange=publication.exchange, routing_key=publication.key, mandatory=True
        )
        # What basic_publish does, which takes no views of bytes.
        channel._send_method(method, (properties, part.body))

    def _new_link(self) -> Link:
        return Link(IOLoop(), self._doors, self._patience_s, self._stop)


class _Connection(pika.SelectConnection):  # type: ignore[misc]
    """A connection that can be broken off, and that survives properties which pika can't decode."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._unframer = Unframer()
        super().__init__(*arguments, **named)

    def abort(self, why: str) -> None:
        if not self.is_closed:
            self._terminate_stream(pika.exceptions.StreamLostError(why))

    def _send_message(self, channel_number: int, method: Any, content: tuple[Any, Any]) -> None:
        """As pika's, but for copies of the body."""
        properties, body = content
        head = b"".join(
            (
                pika.frame.Method(channel_number, method).marshal(),
                pika.frame.Header(channel_number, len(body), properties).marshal(),
            )
        )
        self._output_marshaled_frames(framed(head, channel_number, body, self._body_max_length))

    def _on_data_available(self, data: bytes) -> None:
        """As pika's, but for copies of bodies, which are one frame each."""
        self.bytes_received += len(data)
        for each in self._unframer.feed(data):
            if isinstance(each, Body):
                self._process_frame(pika.frame.Body(each.channel, each.data))
            else:
                self._process_frame(_decoded(each))


def _decoded(frame: bytes) -> Any:
    """pika's frame; one with properties that can't be decoded has none."""
    try:
        return pika.frame.decode_frame(frame)[1]
    except _UNREADABLE:
        kind, channel = struct.unpack_from(">BH", frame)
        if kind != HEADER:
            raise
        (body_size,) = struct.unpack_from(">Q", frame, 11)
        return pika.frame.Header(channel, body_size, pika.BasicProperties())


def _send_together(transport: Any) -> None:
    """As pika's `_produce`, but for a send of each buffer, and for copies of what is left of one."""
    buffers = transport._tx_buffers
    while buffers:
        sent = transport._sock.sendmsg(islice(buffers, _GATHERED))
        transport._tx_buffered_byte_count -= sent
        while sent:
            first = buffers.popleft()
            if sent < len(first):
                buffers.appendleft(memoryview(first)[sent:])
            sent -= min(sent, len(first))


def _finish(assembler: Any) -> tuple[Any, Any, Any]:
    """As pika's, but for a copy: here a body comes whole."""
    body = assembler._body_fragments[0] if assembler._body_fragments else b""
    content = assembler._method_frame, assembler._header_frame, body
    assembler._reset()
    return content


# Not where TLS is spoken, which can't gather.
_AsyncPlaintextTransport._produce = _send_together
ContentFrameAssembler._finish = _finish


def _parameters(url: str, patience_s: float | None) -> Any:
    try:
        parameters = pika.URLParameters(url)
    except (ValueError, TypeError):  # their texts may quote a piece of the password
        raise ConfigError(
            "the broker's URL is malformed: give amqp://user:password@host:port/vhost, "
            "with special characters as %XX"
        ) from None
    wait_s = SOCKET_TIMEOUT_S if patience_s is None else min(max(patience_s, 0.1), SOCKET_TIMEOUT_S)
    parameters.socket_timeout = wait_s
    parameters.stack_timeout = min(1.5 * wait_s, LOGIN_TIMEOUT_S)
    if parameters.heartbeat is None:
        parameters.heartbeat = HEARTBEAT_S
    name = f"Warren as {parameters.credentials.username}"
    parameters.client_properties = {"connection_name": name, **(parameters.client_properties or {})}
    return parameters


def _door(parameters: Any) -> Door:
    where = f"{parameters.host}:{parameters.port}"

    def because(error: BaseException) -> WarrenError:
        return why_not(error, where, parameters.credentials.username, parameters.virtual_host)

    def dial(
        loop: Loop, settle: Callable[[Connection | WarrenError], None], lost: Callable[[str], None]
    ) -> Connection:
        connection: Connection = _Connection(
            parameters,
            on_open_callback=settle,
            on_open_error_callback=lambda _, error: settle(because(error)),
            on_close_callback=lambda _, reason: lost(words_of(reason)),
            custom_ioloop=loop,
        )
        return connection

    return Door(where, dial)
