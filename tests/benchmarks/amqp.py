"""Just enough AMQP 0-9-1 to measure what a client on a bare socket can do: no errors, no recovery.

Bytes are sent from where they lie (`sendmsg`) and copied once when they arrive, confirms are pipelined.
"""

from __future__ import annotations

import socket
import struct
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from urllib.parse import unquote, urlsplit

METHOD, HEADER, BODY, END = 1, 2, 3, b"\xce"
#: The channel that publishes; those above it consume.
PUBLISHING = 1
RECEIVED_BYTES = 1 << 20
#: Pieces handed to the kernel at one time.
MAX_PIECES = 512
#: class and method numbers.
START, START_OK, TUNE, TUNE_OK, OPEN, OPEN_OK = (10, 10), (10, 11), (10, 30), (10, 31), (10, 40), (10, 41)
CHANNEL_OPEN, CHANNEL_OPEN_OK, DECLARE, DECLARE_OK = (20, 10), (20, 11), (50, 10), (50, 11)
DELETE, DELETE_OK = (50, 40), (50, 41)
QOS, QOS_OK, CONSUME, CONSUME_OK = (60, 10), (60, 11), (60, 20), (60, 21)
PUBLISH, DELIVER, ACK, SELECT, SELECT_OK = (60, 40), (60, 60), (60, 80), (85, 10), (85, 11)


class Socket:
    """One connection. A `Line` of `tests.benchmarks.floor`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._room = bytearray(RECEIVED_BYTES)
        self._have = b""
        self._answers: deque[tuple[tuple[int, int], bytes]] = deque()
        self._delivered: dict[int, deque[tuple[int, bytearray]]] = defaultdict(deque)
        self._coming: dict[int, tuple[int, bytearray, int]] = {}
        self._published = self._confirmed = 0
        self._above: set[int] = set()
        self._socket.sendall(b"AMQP\x00\x00\x09\x01")
        self._await(START)
        login = f"\0{parts.username}\0{parts.password}".encode()
        self._call(0, START_OK, table({}) + short("PLAIN") + long(login) + short("en_US"), TUNE)
        self._frame_max = struct.unpack_from(">I", self._last, 2)[0]
        self._send(0, TUNE_OK, struct.pack(">HIH", 2047, self._frame_max, 0))
        self._call(0, OPEN, short(unquote(parts.path[1:])) + b"\0\0", OPEN_OK)
        self._channel(PUBLISHING)
        self._call(PUBLISHING, SELECT, b"\0", SELECT_OK)

    def declare(self, queue: str, arguments: Mapping[str, str | int]) -> None:
        flags = bytes([0b00010])  # durable
        self._call(PUBLISHING, DECLARE, b"\0\0" + short(queue) + flags + table(arguments), DECLARE_OK)

    def delete(self, queue: str) -> None:
        self._call(PUBLISHING, DELETE, b"\0\0" + short(queue) + b"\0", DELETE_OK)

    def consume(self, queue: str, prefetch: int, arguments: Mapping[str, str | int]) -> int:
        channel = PUBLISHING + 1 + len(self._delivered)
        self._delivered[channel] = deque()
        self._channel(channel)
        self._call(channel, QOS, struct.pack(">IHB", 0, prefetch, 0), QOS_OK)
        self._call(
            channel, CONSUME, b"\0\0" + short(queue) + short("") + b"\0" + table(arguments), CONSUME_OK
        )
        return channel

    def publish(self, messages: Sequence[tuple[str, memoryview]]) -> None:
        pieces: list[bytes | memoryview] = []
        for queue, body in messages:
            pieces += self._frames(queue, body)
        self._published += len(messages)
        for first in range(0, len(pieces), MAX_PIECES):
            self._write(pieces[first : first + MAX_PIECES])
        while self._confirmed < self._published:
            self._read()

    def take(self, source: int) -> tuple[int, memoryview]:
        """The next delivery's tag and body; it is to be acked."""
        waiting = self._delivered[source]
        while not waiting:
            self._read()
        tag, body = waiting.popleft()
        return tag, memoryview(body)

    def ack(self, source: int, tag: int) -> None:
        self._send(source, ACK, struct.pack(">QB", tag, 0))

    def close(self) -> None:
        self._socket.close()

    # --- frames out

    def _frames(self, queue: str, body: memoryview) -> list[bytes | memoryview]:
        most = self._frame_max - 8
        method = struct.pack(">HH", *PUBLISH) + b"\0\0" + short("") + short(queue) + b"\0"
        header = struct.pack(">HHQHB", 60, 0, len(body), 1 << 12, 2)  # delivery_mode 2
        head = frame(METHOD, PUBLISHING, method) + frame(HEADER, PUBLISHING, header)
        pieces: list[bytes | memoryview] = [head]
        for first in range(0, len(body), most):
            piece = body[first : first + most]
            pieces += [struct.pack(">BHI", BODY, PUBLISHING, len(piece)), piece, END]
        return pieces

    def _write(self, pieces: Sequence[bytes | memoryview]) -> None:
        left = [memoryview(piece) for piece in pieces]
        while left:
            sent = self._socket.sendmsg(left)
            while left and sent >= len(left[0]):
                sent -= len(left.pop(0))
            if left:
                left[0] = left[0][sent:]

    def _send(self, channel: int, method: tuple[int, int], arguments: bytes) -> None:
        self._socket.sendall(frame(METHOD, channel, struct.pack(">HH", *method) + arguments))

    def _call(self, channel: int, method: tuple[int, int], arguments: bytes, answer: tuple[int, int]) -> None:
        self._send(channel, method, arguments)
        self._await(answer)

    def _channel(self, channel: int) -> None:
        self._call(channel, CHANNEL_OPEN, b"\0", CHANNEL_OPEN_OK)

    # --- frames in

    def _await(self, answer: tuple[int, int]) -> None:
        while not self._answers:
            self._read()
        method, self._last = self._answers.popleft()
        if method != answer:
            raise ConnectionError(f"RabbitMQ answered {method}, not {answer}: {self._last!r}")

    def _read(self) -> None:
        count = self._socket.recv_into(self._room)
        if not count:
            raise ConnectionError("RabbitMQ closed the connection")
        fresh = memoryview(self._room)[:count]
        data = memoryview(self._have + fresh) if self._have else fresh
        place = 0
        while len(data) - place >= 7:
            kind, channel, size = struct.unpack_from(">BHI", data, place)
            if len(data) - place < size + 8:
                break
            self._take(kind, channel, data[place + 7 : place + 7 + size])
            place += size + 8
        self._have = bytes(data[place:])

    def _take(self, kind: int, channel: int, payload: memoryview) -> None:
        if kind == METHOD:
            self._method(channel, struct.unpack_from(">HH", payload), bytes(payload[4:]))
        elif kind == HEADER:
            tag, _, _ = self._coming[channel]
            self._arrive(channel, tag, bytearray(struct.unpack_from(">Q", payload, 4)[0]), 0)
        elif kind == BODY:
            tag, body, place = self._coming[channel]
            body[place : place + len(payload)] = payload
            self._arrive(channel, tag, body, place + len(payload))

    def _arrive(self, channel: int, tag: int, body: bytearray, place: int) -> None:
        self._coming[channel] = tag, body, place
        if place == len(body):
            self._delivered[channel].append((tag, body))

    def _method(self, channel: int, method: tuple[int, ...], arguments: bytes) -> None:
        if method == DELIVER:
            tag = struct.unpack_from(">Q", arguments, 1 + arguments[0])[0]
            self._coming[channel] = tag, bytearray(), 0
        elif method == ACK and channel == PUBLISHING:
            tag, multiple = struct.unpack(">QB", arguments)
            self._confirm(tag, bool(multiple))
        else:
            self._answers.append(((method[0], method[1]), arguments))

    def _confirm(self, tag: int, multiple: bool) -> None:
        """Counts what all is confirmed up to; single confirms may come out of order."""
        self._above.add(tag)
        if multiple:
            self._confirmed = max(self._confirmed, tag)
        while self._confirmed + 1 in self._above:
            self._confirmed += 1
        self._above = {known for known in self._above if known > self._confirmed}


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + END


def short(text: str) -> bytes:
    data = text.encode()
    return bytes([len(data)]) + data


def long(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def table(entries: Mapping[str, str | int]) -> bytes:
    """An AMQP field table of texts and whole numbers."""
    packed = b""
    for key, value in entries.items():
        field = b"l" + struct.pack(">q", value) if isinstance(value, int) else b"S" + long(value.encode())
        packed += short(key) + field
    return long(packed)
