"""What the RabbitMQ adapter reaches for inside pika is there, and does what it did."""

from __future__ import annotations

import inspect

import pytest
from pika import BasicProperties, SelectConnection, spec
from pika.adapters.utils.io_services_utils import _AsyncTransportBase
from pika.channel import Channel
from pika.connection import Connection

from shared.broker import rabbit


def _names(function: object) -> set[str]:
    return set(inspect.unwrap(function).__code__.co_names)  # type: ignore[arg-type, attr-defined]


def test_reads_are_bounded_by_what_we_raise() -> None:
    assert {"_MAX_RECV_BYTES", "_MAX_CONSUME_BYTES"} <= _names(_AsyncTransportBase._consume)
    assert rabbit._AsyncTransportBase is _AsyncTransportBase
    assert _AsyncTransportBase._MAX_RECV_BYTES == 64 * 1024
    assert _AsyncTransportBase._MAX_CONSUME_BYTES == 1024 * 1024


def test_frames_are_read_by_what_we_override() -> None:
    assert {"_read_frame", "_trim_frame_buffer"} <= _names(Connection._on_data_available)
    assert {"decode_frame", "_frame_buffer"} <= _names(Connection._read_frame)


def test_messages_are_sent_by_what_we_override() -> None:
    assert "_send_method" in _names(Channel.basic_publish)
    assert list(inspect.signature(Channel._send_method).parameters) == ["self", "method", "content"]
    assert list(inspect.signature(Connection._send_message).parameters) == [
        "self", "channel_number", "method_frame", "content",
    ]  # fmt: skip
    assert "_send_message" in _names(Connection._send_method)
    assert {"_output_marshaled_frames", "_body_max_length"} <= _names(Connection._send_message)


def test_what_waits_to_be_sent_lies_where_we_add_to_it() -> None:
    fields = {"_tx_buffers", "_tx_buffered_byte_count"}
    assert fields <= _names(_AsyncTransportBase._buffer_tx_data)
    assert fields <= _names(_AsyncTransportBase._produce)
    assert {"_transport", "write"} <= _names(SelectConnection._adapter_emit_data)
    assert "_adapter_emit_data" in _names(Connection._output_marshaled_frames)


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
