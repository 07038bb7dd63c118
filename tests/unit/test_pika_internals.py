"""What the RabbitMQ adapter reaches for inside pika is there, and does what it did."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from pika import BasicProperties, SelectConnection, spec
from pika.adapters.utils.io_services_utils import _AsyncPlaintextTransport, _AsyncTransportBase
from pika.channel import Channel, ContentFrameAssembler
from pika.connection import Connection
from pika.frame import Body, Header, Heartbeat, Method

from shared.broker import _pika
from shared.broker._frames import Unframer
from shared.weights import Buffer


def _connection() -> Any:
    """One that was never dialled."""
    connection = _pika._Connection.__new__(_pika._Connection)
    connection._unframer, connection._depth, connection._waiting = Unframer(), 0, deque()
    connection._transport = SimpleNamespace(_state=1, _STATE_ACTIVE=1)
    connection.bytes_received = 0
    return connection


def _names(function: object) -> set[str]:
    return set(inspect.unwrap(function).__code__.co_names)  # type: ignore[arg-type, attr-defined]


def test_reads_are_bounded_by_what_we_raise() -> None:
    assert {"_MAX_RECV_BYTES", "_MAX_CONSUME_BYTES"} <= _names(_AsyncTransportBase._consume)
    assert _AsyncTransportBase._MAX_RECV_BYTES == _pika.RECEIVED_BYTES == 64 * 1024
    assert _AsyncTransportBase._MAX_CONSUME_BYTES == _pika.TURN_BYTES == 1024 * 1024


def test_a_socket_is_read_by_what_we_override() -> None:
    assert _AsyncPlaintextTransport._consume is _pika._consume
    assert "_consume" in _names(_AsyncPlaintextTransport._on_socket_readable)
    fields = {"_state", "_STATE_ACTIVE", "_sock", "_protocol", "data_received", "RxEndOfFile"}
    assert fields <= _names(_AsyncTransportBase._consume)


@pytest.mark.parametrize(
    ("reads", "taken"),
    [
        ([b"ab", b"never asked for"], 1),
        ([b"x" * _pika.RECEIVED_BYTES, b"", b"never asked for"], 2),
        ([b"x" * _pika.RECEIVED_BYTES] * 20, 16),
    ],
)
def test_a_socket_is_read_until_it_gives_less_than_was_asked_for(reads: list[bytes], taken: int) -> None:
    came: list[bytes] = []
    left = list(reads)
    transport = SimpleNamespace(
        _state=1, _STATE_ACTIVE=1, RxEndOfFile=EOFError,
        _sock=SimpleNamespace(recv=lambda _: left.pop(0)),
        _protocol=SimpleNamespace(data_received=came.append),
    )  # fmt: skip
    if b"" in reads:
        with pytest.raises(EOFError):
            _pika._consume(transport)
    else:
        _pika._consume(transport)
    assert len(reads) - len(left) == taken
    assert came == [data for data in reads[:taken] if data]


def test_frames_are_read_by_what_we_override() -> None:
    assert "_on_data_available" in _names(SelectConnection._proto_data_received)
    assert {"_process_frame", "_trim_frame_buffer"} <= _names(Connection._on_data_available)
    assert {"bytes_received", "_frame_buffer"} == _names(Connection._trim_frame_buffer)


def test_bodies_are_finished_by_what_we_override() -> None:
    assert ContentFrameAssembler._finish is _pika._finish
    assert "_finish" in _names(ContentFrameAssembler.process)
    assert {"_finish", "_body_fragments"} <= _names(ContentFrameAssembler._handle_body_frame)
    assert {"_method_frame", "_header_frame", "_body_fragments"} <= _names(ContentFrameAssembler._reset)


@pytest.mark.parametrize("size", [0, 1, 2500])
def test_what_comes_is_what_pika_would_make_of_it(size: int) -> None:
    content = BasicProperties(message_id="m"), b"x" * size
    frames = [Method(3, spec.Basic.Deliver("tag", 1, False, "e", "k")), Header(3, size, content[0])]
    frames += [Body(3, content[1][start : start + 1000]) for start in range(0, size, 1000)]
    sent = b"".join(frame.marshal() for frame in frames)
    connection = _connection()
    assembler, came = ContentFrameAssembler(), []
    connection._process_frame = lambda frame: came.append(assembler.process(frame))
    for start in range(0, len(sent), 700):
        connection._on_data_available(sent[start : start + 700])
    assert connection.bytes_received == len(sent)
    ((method, header, body),) = [each for each in came if each is not None]
    assert (method.method.delivery_tag, header.properties.message_id) == (1, "m")
    assert bytes(body) == content[1]


def test_messages_are_sent_by_what_we_override() -> None:
    assert "_send_method" in _names(Channel.basic_publish)
    assert list(inspect.signature(Channel._send_method).parameters) == ["self", "method", "content"]
    assert list(inspect.signature(Connection._send_message).parameters) == [
        "self", "channel_number", "method_frame", "content",
    ]  # fmt: skip
    assert "_send_message" in _names(Connection._send_method)
    assert {"_output_marshaled_frames", "_body_max_length"} <= _names(Connection._send_message)


def test_what_waits_is_sent_by_what_we_override() -> None:
    assert _AsyncPlaintextTransport._produce is _pika._produce
    assert "_produce" in _names(_AsyncPlaintextTransport._on_socket_writable)
    fields = {"_tx_buffers", "_tx_buffered_byte_count", "_sock"}
    assert fields <= _names(_AsyncTransportBase._produce)
    assert fields - {"_sock"} <= _names(_AsyncTransportBase._buffer_tx_data)
    assert {"_transport", "write"} <= _names(SelectConnection._adapter_emit_data)
    assert "_adapter_emit_data" in _names(Connection._output_marshaled_frames)


class Sent:
    """A transport with a socket that takes `room` bytes at a time; None: it is full."""

    _STATE_ACTIVE = 1

    def __init__(self, room: int | None, waiting: int = 0) -> None:
        self._state = self._STATE_ACTIVE
        self.at_once, self.later = bytearray(), bytearray()
        self._room, self._nbytes = room, waiting
        self._sock = self

    def sendmsg(self, buffers: Iterable[Buffer]) -> int:
        if self._room is None:
            raise BlockingIOError
        some = b"".join(buffers)[: self._room]
        self._room -= len(some)
        if not some:
            raise BlockingIOError
        self.at_once += some
        return len(some)

    def write(self, data: Buffer) -> None:
        if self._state == self._STATE_ACTIVE:
            self.later += data

    def get_write_buffer_size(self) -> int:
        return self._nbytes


@pytest.mark.parametrize("room", [None, 1, 9, 10, 100])
@pytest.mark.parametrize("waiting", [0, 5])
def test_what_is_sent_together_goes_out_once_and_in_order(
    room: int | None, waiting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_pika, "_AsyncPlaintextTransport", Sent)
    connection, transport = _connection(), Sent(room, waiting)
    connection._transport = transport
    with connection.together():
        with connection.together():
            connection._adapter_emit_data(b"abc")
        connection._adapter_emit_data(memoryview(b"defghij"))
        assert not transport.at_once + transport.later
    assert transport.at_once + transport.later == b"abcdefghij"
    # What waits already goes first.
    assert len(transport.at_once) == (0 if waiting else min(room or 0, 10))
    connection._adapter_emit_data(b"k")
    assert transport.later.endswith(b"k")


def test_over_tls_pika_sends_and_what_is_small_goes_together() -> None:
    connection, writes = _connection(), []
    connection._transport = SimpleNamespace(_state=1, _STATE_ACTIVE=1, write=writes.append)
    with connection.together():
        for _ in range(100):
            connection._adapter_emit_data(bytes(100))
        connection._adapter_emit_data(memoryview(bytes(50_000)))
    assert [len(each) for each in writes] == [10_000, 50_000]


def test_what_was_to_go_out_when_the_line_is_broken_off_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pika, "_AsyncPlaintextTransport", Sent)
    connection, transport = _connection(), Sent(100)
    connection._transport = transport
    with connection.together():
        connection._adapter_emit_data(b"abc")
        transport._state = 0  # what pika does at once; all else comes later
    assert not transport.at_once + transport.later


def test_frames_behind_the_reason_to_break_off_are_passed_over() -> None:
    connection, came = _connection(), []

    def take(frame: Any) -> None:
        came.append(frame)
        connection._transport._state = 0

    connection._process_frame = take
    connection._on_data_available(Heartbeat().marshal() * 3)
    assert len(came) == 1


def test_other_users_of_pika_get_their_bodies_whole() -> None:
    assembler = ContentFrameAssembler()
    assembler.process(Method(3, spec.Basic.Deliver("tag", 1, False, "e", "k")))
    assembler.process(Header(3, 5, BasicProperties()))
    assembler.process(Body(3, b"abc"))
    _, _, body = assembler.process(Body(3, b"de"))
    assert body == b"abcde"


@pytest.mark.parametrize("room", [1, 3, 7, 100])
def test_what_waits_goes_out_whole_and_in_order(room: int) -> None:
    buffers = [b"ab", memoryview(b"cdefg"), b"h", bytearray(b"ij")] * 80
    sent = bytearray()

    def sendmsg(waiting: Iterable[Buffer]) -> int:
        some = b"".join(waiting)[:room]
        sent.extend(some)
        return len(some)

    total = sum(map(len, buffers))
    transport = SimpleNamespace(
        _tx_buffers=deque(buffers), _tx_buffered_byte_count=total, _sock=SimpleNamespace(sendmsg=sendmsg)
    )
    _pika._produce(transport)
    assert bytes(sent) == b"abcdefghij" * 80
    assert transport._tx_buffered_byte_count == len(transport._tx_buffers) == 0


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 2500])
def test_what_is_sent_are_pika_s_own_bytes(size: int) -> None:
    content = BasicProperties(message_id="m", headers={"part": 1}), bytes(range(256)) * 10
    content = content[0], content[1][:size]
    sent: dict[type, bytes] = {}
    for kind in (SelectConnection, _pika._Connection):
        connection = kind.__new__(kind)
        connection._body_max_length = 1000
        frames: list[bytes] = []
        connection._output_marshaled_frames = frames.extend
        connection._send_message(3, spec.Basic.Publish(exchange="e", routing_key="k"), content)
        sent[kind] = b"".join(frames)
    assert sent[_pika._Connection] == sent[SelectConnection]


def test_a_connection_is_broken_off_by_what_we_call() -> None:
    assert list(inspect.signature(Connection._terminate_stream).parameters) == ["self", "error"]
