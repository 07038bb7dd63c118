"""What the RabbitMQ adapter reaches for inside pika is there, and does what it did."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Iterable
from types import SimpleNamespace

import pytest
from pika import BasicProperties, SelectConnection, spec
from pika.adapters.utils.io_services_utils import _AsyncPlaintextTransport, _AsyncTransportBase
from pika.channel import Channel, ContentFrameAssembler
from pika.connection import Connection
from pika.frame import Body, Header, Method

from shared.broker import rabbit
from shared.broker._frames import Unframer
from shared.weights import Buffer


def _names(function: object) -> set[str]:
    return set(inspect.unwrap(function).__code__.co_names)  # type: ignore[arg-type, attr-defined]


def test_reads_are_bounded_by_what_we_raise() -> None:
    assert {"_MAX_RECV_BYTES", "_MAX_CONSUME_BYTES"} <= _names(_AsyncTransportBase._consume)
    assert rabbit._AsyncTransportBase is _AsyncTransportBase
    assert _AsyncTransportBase._MAX_RECV_BYTES == 64 * 1024
    assert _AsyncTransportBase._MAX_CONSUME_BYTES == 1024 * 1024


def test_frames_are_read_by_what_we_override() -> None:
    assert "_on_data_available" in _names(SelectConnection._proto_data_received)
    assert {"_process_frame", "_trim_frame_buffer"} <= _names(Connection._on_data_available)
    assert {"bytes_received", "_frame_buffer"} == _names(Connection._trim_frame_buffer)


def test_bodies_are_finished_by_what_we_override() -> None:
    assert ContentFrameAssembler._finish is rabbit._finish
    assert "_finish" in _names(ContentFrameAssembler.process)
    assert {"_finish", "_body_fragments"} <= _names(ContentFrameAssembler._handle_body_frame)
    assert {"_method_frame", "_header_frame", "_body_fragments"} <= _names(ContentFrameAssembler._reset)


@pytest.mark.parametrize("size", [0, 1, 2500])
def test_what_comes_is_what_pika_would_make_of_it(size: int) -> None:
    content = BasicProperties(message_id="m"), b"x" * size
    frames = [Method(3, spec.Basic.Deliver("tag", 1, False, "e", "k")), Header(3, size, content[0])]
    frames += [Body(3, content[1][start : start + 1000]) for start in range(0, size, 1000)]
    sent = b"".join(frame.marshal() for frame in frames)
    connection = rabbit._Connection.__new__(rabbit._Connection)
    connection._unframer = Unframer()
    connection.bytes_received = 0
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
    assert _AsyncPlaintextTransport._produce is rabbit._send_together
    assert "_produce" in _names(_AsyncPlaintextTransport._on_socket_writable)
    fields = {"_tx_buffers", "_tx_buffered_byte_count", "_sock"}
    assert fields <= _names(_AsyncTransportBase._produce)
    assert fields - {"_sock"} <= _names(_AsyncTransportBase._buffer_tx_data)


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
    rabbit._send_together(transport)
    assert bytes(sent) == b"abcdefghij" * 80
    assert transport._tx_buffered_byte_count == len(transport._tx_buffers) == 0


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 2500])
def test_what_is_sent_are_pika_s_own_bytes(size: int) -> None:
    content = BasicProperties(message_id="m", headers={"part": 1}), bytes(range(256)) * 10
    content = content[0], content[1][:size]
    sent: dict[type, bytes] = {}
    for kind in (SelectConnection, rabbit._Connection):
        connection = kind.__new__(kind)
        connection._body_max_length = 1000
        frames: list[bytes] = []
        connection._output_marshaled_frames = frames.extend
        connection._send_message(3, spec.Basic.Publish(exchange="e", routing_key="k"), content)
        sent[kind] = b"".join(frames)
    assert sent[rabbit._Connection] == sent[SelectConnection]


def test_a_connection_is_broken_off_by_what_we_call() -> None:
    assert list(inspect.signature(Connection._terminate_stream).parameters) == ["self", "error"]
