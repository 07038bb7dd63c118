"""AMQP 0-9-1's frames (section 4.2 of its specification), so that bodies pass pika with one copy or none.

A frame is its type, its channel, the length of its payload, the payload, and the octet 0xCE. A message is a
method frame, a header frame, which tells the body's size, and the body in as many frames as it takes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from shared.weights import Buffer

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
#: A server that speaks another protocol answers with the name of it: eight octets, no frame.
PROTOCOL_NAME = b"AMQP"
PROTOCOL_NAME_BYTES = 8
#: A body's frame of up to so many bytes is copied behind what comes before it: cheaper than one more buffer.
COPIED_BYTES = 16 * 1024

_START, _END = struct.Struct(">BHL"), b"\xce"
#: In a header frame: class, weight and the body's size.
_SIZE, _SIZE_AT = struct.Struct(">Q"), _START.size + 4


class FramingError(ValueError):
    """Raised when bytes are no frames, or their bodies not what was announced."""


@dataclass(frozen=True, slots=True)
class Body:
    """All of a message's body."""

    channel: int
    data: bytes | memoryview


class _Coming:
    """A body on its way."""

    __slots__ = ("_filled", "_room", "missing")

    def __init__(self, nbytes: int) -> None:
        self.missing = nbytes
        self._filled = 0
        self._room: memoryview | None = None

    def add(self, piece: memoryview) -> bytes | memoryview | None:
        """Takes what comes next; returns the body when that was the last of it."""
        if self._room is None:
            if len(piece) == self.missing:
                return bytes(piece)
            self._room = np.empty(self.missing, np.uint8).data
        start, self._filled = self._filled, self._filled + len(piece)
        self._room[start : self._filled] = piece
        self.missing -= len(piece)
        return None if self.missing else self._room


def framed(head: bytes, channel: int, body: Buffer, step: int) -> list[Buffer]:
    """A message to send: `head`, which are the frames before the body, and that in frames of `step` bytes."""
    view = memoryview(body)
    pieces: list[Buffer] = []
    before = head
    for start in range(0, len(view), step):
        piece = view[start : start + step]
        before += _START.pack(BODY, channel, len(piece))
        if len(piece) <= COPIED_BYTES:
            before = b"".join((before, piece, _END))
        else:
            pieces += [before, piece]
            before = _END
    return [*pieces, before]


def joined(buffers: Iterable[Buffer]) -> Iterator[Buffer]:
    """The same bytes in fewer buffers: small neighbours are copied together."""
    small: list[Buffer] = []
    nbytes = 0
    for each in buffers:
        if small and nbytes + len(each) > COPIED_BYTES:
            yield b"".join(small)
            small, nbytes = [], 0
        if len(each) > COPIED_BYTES:
            yield each
        else:
            small.append(each)
            nbytes += len(each)
    if small:
        yield b"".join(small)


class Unframer:
    """Frames out of what a socket gives, however it is cut."""

    def __init__(self) -> None:
        self._rest = b""
        #: The channel of the body frame in hand, and how much of it is missing with its last octet.
        self._channel = self._missing = 0
        self._coming: dict[int, _Coming] = {}

    def feed(self, data: bytes) -> Iterator[Body | bytes]:
        """Whole bodies, and whole frames of all other kinds.

        Raises:
            FramingError: those bytes are no frames.
        """
        view = memoryview(self._rest + data if self._rest else data)
        self._rest = b""
        while len(view):
            size = self._missing or _size(view)
            if size > len(view) and not self._missing:
                self._rest = bytes(view)
                return
            taken, view = view[:size], view[size:]
            if self._missing:
                yield from self._more_of_body(taken)
            elif taken[0] == BODY:
                _, self._channel, nbytes = _START.unpack(taken)
                self._missing = nbytes + len(_END)
            else:
                self._expect_body(taken)
                yield bytes(taken)

    def _expect_body(self, frame: memoryview) -> None:
        kind, channel, _ = _START.unpack_from(frame)
        # One that is on its way ends with whatever else comes on its channel.
        self._coming.pop(channel, None)
        if kind == HEADER:
            self._coming[channel] = _Coming(_SIZE.unpack_from(frame, _SIZE_AT)[0])

    def _more_of_body(self, piece: memoryview) -> Iterator[Body]:
        self._missing -= len(piece)
        if not self._missing:
            if piece[-1:] != _END:
                raise FramingError("a frame came without its end")
            piece = piece[:-1]
        if not len(piece):
            return
        coming = self._coming.get(self._channel)
        if coming is None or coming.missing < len(piece):
            raise FramingError("a body came that was not announced")
        body = coming.add(piece)
        if body is not None:
            del self._coming[self._channel]
            yield Body(self._channel, body)


def _size(view: memoryview) -> int:
    """How many bytes to take next: a whole frame, or of a body's all that stands before its payload."""
    if view[: len(PROTOCOL_NAME)] == PROTOCOL_NAME:
        return PROTOCOL_NAME_BYTES
    if len(view) < _START.size:
        return _START.size
    kind, _, nbytes = _START.unpack_from(view)
    if kind == BODY:
        return _START.size
    if kind not in (METHOD, HEADER, HEARTBEAT):
        raise FramingError(f"a frame of type {kind} came")
    end = int(_START.size + nbytes)
    if end < len(view) and view[end : end + 1] != _END:
        raise FramingError("a frame came without its end")
    return end + len(_END)
