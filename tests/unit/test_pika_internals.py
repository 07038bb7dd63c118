"""What the RabbitMQ adapter reaches for inside pika is there, and does what it did."""

from __future__ import annotations

import inspect

from pika.adapters.utils.io_services_utils import _AsyncTransportBase
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


def test_a_connection_is_broken_off_by_what_we_call() -> None:
    assert list(inspect.signature(Connection._terminate_stream).parameters) == ["self", "error"]
