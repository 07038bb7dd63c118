"""The one file that touches pika: connections to RabbitMQ, without what pika does once too often.

pika copies a body four times on its way in and twice on its way out, sends each frame by itself, asks its
poller before each send, and reads until there is nothing to read. What stands below in its place does the
same without that, and a test fails if pika moves anything that is meant here.
"""

from __future__ import annotations

import logging
import struct
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any

import pika  # type: ignore[import-untyped]
from pika.adapters.select_connection import IOLoop  # type: ignore[import-untyped]
from pika.adapters.utils.io_services_utils import (  # type: ignore[import-untyped]
    _AsyncPlaintextTransport,
    _AsyncTransportBase,
)
from pika.channel import ContentFrameAssembler  # type: ignore[import-untyped]

from shared.broker._amqp import Channel, Connection, Loop, why_not, words_of
from shared.broker._frames import HEADER, Body, Unframer, framed, joined
from shared.broker._link import Door
from shared.broker.port import Publication
from shared.errors import ConfigError, WarrenError
from shared.weights import Buffer

HEARTBEAT_S = 30
#: How long connecting may take: the socket, and with the login.
SOCKET_TIMEOUT_S = 10.0
LOGIN_TIMEOUT_S = 15.0
#: One read of a socket; the system would be asked for memory anew for each from 128 KiB on. And the reads
#: until others have their turn. pika's own are of 4 KiB.
RECEIVED_BYTES = 64 * 1024
TURN_BYTES = 1024 * 1024
#: Most buffers in one send; systems take 1024.
GATHERED = 128
#: What pika raises when it decodes a delivery's properties that make no sense.
_UNREADABLE = (
    ArithmeticError, LookupError, OSError, RecursionError, TypeError, ValueError, struct.error,
    pika.exceptions.AMQPError,
)  # fmt: skip

# What goes wrong is said once, and by us.
logging.getLogger("pika").setLevel(logging.CRITICAL)


def new_loop() -> Loop:
    """A loop for one connection at a time."""
    loop: Loop = IOLoop()
    return loop


def parameters_of(url: str, patience_s: float | None) -> Any:
    """A URL's connection parameters. `patience_s` bounds how long connecting may take.

    Raises:
        ConfigError: the URL is malformed.
    """
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


def door(parameters: Any) -> Door:
    """The address that the parameters are of."""
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


def question(reply_to: str) -> Any:
    """Properties of a message that is to be answered there."""
    return pika.BasicProperties(reply_to=reply_to)


def send(channel: Channel, publication: Publication, login_name: str) -> None:
    """Sends a part, in a login's name."""
    part = publication.part
    expires_s = publication.expires_s
    properties = pika.BasicProperties(
        message_id=part.message_id,
        type=part.kind,
        user_id=login_name,
        delivery_mode=2,
        headers={"part": part.part, "parts": part.parts, "bytes": part.nbytes, "crc32": part.crc32},
        expiration=None if expires_s is None else str(max(0, round(expires_s * 1000))),
    )
    method = pika.spec.Basic.Publish(
        exchange=publication.exchange, routing_key=publication.key, mandatory=True
    )
    # What basic_publish does, which takes no views of bytes.
    channel._send_method(method, (properties, part.body))


class _Connection(pika.SelectConnection):  # type: ignore[misc]
    """A connection that can be broken off, and that survives properties which pika can't decode."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._unframer = Unframer()
        self._depth = 0
        self._waiting: deque[Buffer] = deque()
        super().__init__(*arguments, **named)

    def abort(self, why: str) -> None:
        if not self.is_closed:
            self._terminate_stream(pika.exceptions.StreamLostError(why))

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is sent in the context goes out at its end, at once and as if in one piece."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth and self._waiting:
                self._emit()

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
        """As pika's, but for copies of bodies, which are one frame each, and for frames that come behind the
        reason to break the connection off, which are passed over.
        """
        self.bytes_received += len(data)
        with self.together():
            for each in self._unframer.feed(data):
                if not self._lives():
                    return
                if isinstance(each, Body):
                    self._process_frame(pika.frame.Body(each.channel, each.data))
                else:
                    self._process_frame(_decoded(each))

    def _adapter_emit_data(self, data: Buffer) -> None:
        if self._depth:
            self._waiting.append(data)
        else:
            super()._adapter_emit_data(data)

    def _emit(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        transport = self._transport
        if not isinstance(transport, _AsyncPlaintextTransport):
            waiting = deque(joined(waiting))
        elif self._lives() and not transport.get_write_buffer_size():
            # If it is full or broken, pika sees to that, which is to send the rest.
            with suppress(OSError):
                while waiting:
                    _strike_out(waiting, transport._sock.sendmsg(islice(waiting, GATHERED)))
        for each in waiting:
            super()._adapter_emit_data(each)

    def _lives(self) -> bool:
        """Whether it was not broken off, of which pika tells only later."""
        transport = self._transport
        return transport is not None and bool(transport._state == transport._STATE_ACTIVE)


def _decoded(frame: bytes) -> Any:
    """pika's frame; a header with properties that can't be decoded has none."""
    try:
        return pika.frame.decode_frame(frame)[1]
    except _UNREADABLE:
        kind, channel = struct.unpack_from(">BH", frame)
        if kind != HEADER:
            raise
        (body_size,) = struct.unpack_from(">Q", frame, 11)
        return pika.frame.Header(channel, body_size, pika.BasicProperties())


def _strike_out(buffers: deque[Any], sent: int) -> None:
    """Takes away what was sent of them, copying nothing."""
    while sent:
        first = buffers.popleft()
        if sent < len(first):
            buffers.appendleft(memoryview(first)[sent:])
        sent -= min(sent, len(first))


def _produce(transport: Any) -> None:
    """As pika's, but for a send of each buffer, and for copies of what is left of one."""
    while transport._tx_buffers:
        sent = transport._sock.sendmsg(islice(transport._tx_buffers, GATHERED))
        transport._tx_buffered_byte_count -= sent
        _strike_out(transport._tx_buffers, sent)


def _consume(transport: Any) -> None:
    """As pika's, but for a read in vain: what came in less than was asked for was all there is."""
    left = TURN_BYTES
    while left > 0 and transport._state == transport._STATE_ACTIVE:
        data = transport._sock.recv(RECEIVED_BYTES)
        if not data:
            raise transport.RxEndOfFile
        transport._protocol.data_received(data)
        left = left - len(data) if len(data) == RECEIVED_BYTES else 0


def _finish(assembler: Any) -> tuple[Any, Any, Any]:
    """As pika's, but for a copy of what comes in one piece, as all bodies do here."""
    fragments = assembler._body_fragments
    body = fragments[0] if len(fragments) == 1 else b"".join(fragments)
    content = assembler._method_frame, assembler._header_frame, body
    assembler._reset()
    return content


# Not where TLS is spoken: it can't gather, and holds back what the poller doesn't know of.
_AsyncPlaintextTransport._produce = _produce
_AsyncPlaintextTransport._consume = _consume
_AsyncTransportBase._MAX_RECV_BYTES = RECEIVED_BYTES
_AsyncTransportBase._MAX_CONSUME_BYTES = TURN_BYTES
ContentFrameAssembler._finish = _finish
