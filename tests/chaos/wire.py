"""Warren's messages, read by hand: this file knows the format, and none of the code that writes it.

A message is "WRN1", the header's length (u32, little-endian), the header (msgpack), zeros to a multiple of 64
bytes, and the payload. A message of several parts has all but the payload in part 0.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgpack

Key = tuple[str, str]


@dataclass(frozen=True)
class Part:
    """One message of the broker's, at its place in a log."""

    offset: int
    message_id: str
    sender: str
    kind: str
    number: int
    count: int
    nbytes: int
    crc32: int
    body: bytes

    @property
    def key(self) -> Key:
        return self.sender, self.message_id


@dataclass(frozen=True)
class Message:
    """A whole message. `starts` are the offsets at which its part 0 lies, `last` is where it became whole.

    `head` is the SHA-256, in hex, of all before the payload.
    """

    key: Key
    header: dict[str, Any]
    head: str
    payload: bytes
    starts: tuple[int, ...]
    last: int

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.payload).hexdigest()


@dataclass
class Contents:
    """What a log holds: whole messages in the order in which they became whole, and the rest.

    A reader puts the parts of a message together in their order, so that a message is `torn` whose parts are
    all there, but never in order.
    """

    messages: list[Message] = field(default_factory=list)
    torn: list[Message] = field(default_factory=list)
    unfinished: list[Key] = field(default_factory=list)
    malformed: list[str] = field(default_factory=list)


@dataclass
class _Pieces:
    """What was read of one message up to the offset `last`: bodies by number, how many of them in order."""

    nbytes: int
    count: int
    bodies: dict[int, bytes] = field(default_factory=dict)
    starts: list[int] = field(default_factory=list)
    in_order: int = 0
    last: int = -1

    def take(self, part: Part) -> bool:
        """Takes the next part; returns whether the message is whole now, and was not before."""
        self.bodies.setdefault(part.number, part.body)
        if part.number == 0:
            self.starts.append(part.offset)
        if self.in_order == self.count:
            return False
        self.last = part.offset
        self.in_order += part.number == self.in_order
        return self.in_order == self.count


def contents(parts: Iterable[Part]) -> Contents:
    """Puts the parts of a log together; a part that lies there twice counts where it lay first."""
    read = Contents()
    pieces: dict[Key, _Pieces] = {}
    whole: list[Key] = []
    for part in parts:
        if part.kind == "mark":
            continue
        if zlib.crc32(part.body) != part.crc32:
            read.malformed.append(f"the part at offset {part.offset} has another CRC-32 than it says")
        elif pieces.setdefault(part.key, _Pieces(part.nbytes, part.count)).take(part):
            whole.append(part.key)
    read.messages = [made for key in whole if (made := _message(key, pieces[key], read))]
    for key in pieces.keys() - set(whole):
        if len(pieces[key].bodies) < pieces[key].count:
            read.unfinished.append(key)
        elif (made := _message(key, pieces[key], read)) is not None:
            read.torn.append(made)
    return read


def _message(key: Key, pieces: _Pieces, read: Contents) -> Message | None:
    try:
        header, head, payload = _decode(pieces.bodies, pieces.nbytes)
    except ValueError as error:
        read.malformed.append(f"the message at offset {pieces.starts[0]}: {error}")
        return None
    return Message(key, header, head, payload, tuple(pieces.starts), pieces.last)


def digest_of(layout: list[Any], payload: bytes) -> str:
    """A version's digest: SHA-256 over the layout as JSON without spaces, a zero byte, and the weights."""
    text = json.dumps(layout, separators=(",", ":")).encode()
    return hashlib.sha256(text + b"\0" + payload).hexdigest()


def assignment_id(work: str, client: str, round_number: int, digest: str, turn: int) -> str:
    """The id that an order has, whoever issues it."""
    text = json.dumps([work, client, round_number, digest, turn], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def mark(federation: str, token: str) -> bytes:
    """A message that says nothing: whoever publishes it learns where a log ends."""
    header = msgpack.packb({"protocol": 1, "kind": "mark", "federation": federation, "token": token})
    head = struct.pack("<4sI", b"WRN1", len(header)) + header
    return head + bytes(-len(head) % 64)


def listing(parts: Iterable[Part]) -> Iterator[dict[str, Any]]:
    """A log for people: a row for each part, with the header where there is one."""
    for part in parts:
        row = {key: value for key, value in vars(part).items() if key != "body"}
        yield {**row, "header": _head(part.body)[0] if part.number == 0 else None}


def rows_of(message: Message) -> Any:
    """A payload that is a msgpack list."""
    return msgpack.unpackb(message.payload) if message.payload else []


def _decode(bodies: dict[int, bytes], nbytes: int) -> tuple[dict[str, Any], str, bytes]:
    if sum(map(len, bodies.values())) != nbytes:
        raise ValueError("its parts have other sizes than they say")
    header, rest = _head(bodies[0])
    head = bodies[0][: len(bodies[0]) - len(rest)]
    payload = b"".join([rest, *(bodies[number] for number in sorted(bodies) if number)])
    return header, hashlib.sha256(head).hexdigest(), payload


def _head(body: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a message or of its part 0, and what comes behind the padding."""
    magic, length = struct.unpack_from("<4sI", body)
    if magic != b"WRN1":
        raise ValueError("it does not begin with WRN1")
    start = -(-(8 + length) // 64) * 64
    return msgpack.unpackb(body[8 : 8 + length]), body[start:]
