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
    """What a log holds: whole messages in the order in which they became whole, and the rest."""

    messages: list[Message] = field(default_factory=list)
    unfinished: list[Key] = field(default_factory=list)
    malformed: list[str] = field(default_factory=list)


def contents(parts: Iterable[Part]) -> Contents:
    """Puts the parts of a log together; a part that lies there twice counts where it lay first."""
    read = Contents()
    bodies: dict[Key, dict[int, bytes]] = {}
    starts: dict[Key, list[int]] = {}
    whole: dict[Key, tuple[Part, int]] = {}
    for part in parts:
        if part.kind == "mark":
            continue
        if zlib.crc32(part.body) != part.crc32:
            read.malformed.append(f"the part at offset {part.offset} has another CRC-32 than it says")
            continue
        mine = bodies.setdefault(part.key, {})
        mine.setdefault(part.number, part.body)
        if part.number == 0:
            starts.setdefault(part.key, []).append(part.offset)
        if len(mine) == part.count and part.key not in whole:
            whole[part.key] = part, part.offset
    for key, (part, last) in whole.items():
        try:
            header, head, payload = _decode(bodies[key], part.nbytes)
        except ValueError as error:
            read.malformed.append(f"the message at offset {starts.get(key)}: {error}")
            continue
        read.messages.append(Message(key, header, head, payload, tuple(starts[key]), last))
    read.unfinished = [key for key in bodies if key not in whole]
    return read


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
