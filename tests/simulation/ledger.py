"""What the logs say, read once more and without the coordinator: who led, and which entries count."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shared import codec
from shared.broker.port import Part
from shared.errors import MessageError
from tests.simulation.server import Log


@dataclass(frozen=True)
class Message:
    """A whole message of a log. `first` and `last` are its parts' offsets; `at` is when it was whole."""

    first: int
    last: int
    at: float
    sender: str
    message_id: str
    header: dict[str, Any]
    payload: bytes


@dataclass(frozen=True)
class Line:
    """A journal entry that counts; `at` is when it reached the log, in true seconds."""

    at: float
    token: str
    kind: str
    data: dict[str, Any]
    rows: Any


def messages(log: Log) -> Iterator[Message]:
    """The whole messages of a log, in the order in which they were whole; the first copy of each."""
    begun: dict[tuple[str, str], list[Part]] = {}
    done: set[tuple[str, str]] = set()
    for part, at in zip(log.parts, log.at, strict=True):
        key = part.user_id, part.message_id
        parts = begun.setdefault(key, [])
        if key in done or part.part != len(parts) or (parts and part.parts != parts[0].parts):
            continue
        parts.append(part)
        if len(parts) < part.parts:
            continue
        done.add(key)
        message = _whole(parts, at)
        if message is not None:
            yield message


def _whole(parts: list[Part], at: float) -> Message | None:
    first, last = parts[0], parts[-1]
    try:
        for part in parts:
            codec.check_part(part)
        header, rest = codec.decode(first.body)
    except MessageError:
        return None
    payload = bytes(rest) + b"".join(bytes(part.body) for part in parts[1:])
    if sum(len(part.body) for part in parts) != first.nbytes:
        return None
    return Message(first.offset, last.offset, at, first.user_id, first.message_id, header, payload)


def journal(log: Log) -> list[Line]:
    """The entries that count.

    A leader's entry counts right behind the entry that it names. Another one counts if its leader is the
    last, and all those before it have come before the next leader's.
    """
    counting: list[Line] = []
    leader, number = "", 0
    deposed: set[str] = set()
    ahead: dict[int, Line] = {}
    for message in messages(log):
        header = message.header
        if header["kind"] == "mark":
            continue
        rows = codec.unpack(message.payload) if message.payload else []
        line = Line(message.at, header["token"], header["kind"], header["data"], rows)
        if line.kind == "leader":
            if line.data["after"] == [leader, number] and line.token not in deposed:
                deposed.add(leader)
                leader, number = line.token, 1
                ahead.clear()
                counting.append(line)
        elif line.token == leader and header["number"] >= number:
            ahead.setdefault(header["number"], line)
            while number in ahead:
                counting.append(ahead.pop(number))
                number += 1
    return counting
