"""Ten thousand messages that no results log should hold, made from a seed and from updates in a real one."""

from __future__ import annotations

import hashlib
import random
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from shared import codec
from shared.broker.port import Part, new_id
from shared.messages import Update, order_id

NUMBER = 10_000
#: Messages with as large a header as there may be: few, for each takes as much as a thousand others.
LARGE = 3
LARGE_BYTES = 700_000
#: Messages of each kind at the beginning.
EACH = 40


class Message(NamedTuple):
    """What is published under one id, and whether it is to get a verdict."""

    parts: list[Part]
    is_judged: bool = True


@dataclass(frozen=True)
class Target:
    """The federation under attack: an open round's order, and updates of earlier rounds in their one part."""

    federation: str
    run: str
    round: int
    version: int
    digest: str
    client: str
    layout_digest: str
    payload_bytes: int
    real: Sequence[Part]

    def update(self, payload: bytes, **changes: object) -> dict:
        """The header of an answer to the client's order: nothing is wrong with it but what is changed."""
        known = {
            "work": "train",
            "client": self.client,
            "round": self.round,
            "digest": self.digest,
            "turn": 0,
        }
        claims = {key: changes.get(key, usual) for key, usual in known.items()}
        fields = {
            "federation": self.federation, "run": self.run, "id": order_id(*claims.values()), "worker": "w",
            "version": self.version, "layout": [], "layout_digest": self.layout_digest,
            "sha256": hashlib.sha256(payload).hexdigest(), "examples": 10, "metrics": {}, "evaluated": 0,
            "evaluation": {}, "seconds": 0.1, "error": "",
        }  # fmt: skip
        return Update(**{**fields, **claims, **changes}).to_header()  # type: ignore[arg-type]


def messages(seed: int, target: Target) -> Iterator[Message]:
    """All of them: some of each kind first, as long as few reasons tell them apart, then any in any order."""
    made = Maker(random.Random(seed), target)
    yield from (made.large() for _ in range(LARGE))
    first = [
        made.claim, made.extreme, made.false_hash, made.other_layout, made.foreign, made.old, made.miscounted,
        made.bomb, made.noise,
    ]  # fmt: skip
    yield from (make() for make in first for _ in range(EACH))
    others = [
        made.truncated, made.flipped, made.duplicate, made.unfinished, made.stray, made.mistyped,
        made.failing,
    ]  # fmt: skip
    for _ in range(NUMBER - LARGE - EACH * len(first)):
        yield made.choice([*first[1:], *others])()


def single(body: bytes, **properties: object) -> Message:
    return Message([replace(Part.single("update", body), **properties)])  # type: ignore[arg-type]


class Maker:
    """One method a kind of message."""

    def __init__(self, rng: random.Random, target: Target) -> None:
        self._rng = rng
        self._target = target
        self._payload = bytes(target.payload_bytes)
        self.choice = rng.choice

    def noise(self) -> Message:
        """Random bytes, also behind a proper beginning."""
        start = self.choice([b"", b"WRN1", b"WRN2", b"WRN1" + struct.pack("<I", 40)])
        kind = self.choice(["update", "presence", "", "round-task"])
        message_id = self.choice(["", "0", new_id()])
        return single(start + self._rng.randbytes(self._rng.randrange(300)), kind=kind, message_id=message_id)

    def truncated(self) -> Message:
        """A real update that ends too soon; its sender may not know."""
        body = self._real()
        cut = body[: self._rng.randrange(len(body))]
        return single(cut) if self._rng.random() < 0.5 else single(cut, crc32=zlib.crc32(body))

    def flipped(self) -> Message:
        """A real update with a few other bits."""
        body = bytearray(self._real())
        for _ in range(self._rng.randint(1, 8)):
            body[self._rng.randrange(len(body))] ^= 1 << self._rng.randrange(8)
        return single(bytes(body))

    def other_layout(self) -> Message:
        """Another model's update, or too many or too few bytes of this one's."""
        if self._rng.random() < 0.5:
            return self._update(self._payload, layout_digest="0" * 64)
        size = self.choice([0, 1, len(self._payload) - 1, len(self._payload) + 4, 4 * len(self._payload)])
        return self._update(bytes(size))

    def extreme(self) -> Message:
        """Values that are no numbers, or absurd ones."""
        value = self.choice([np.nan, np.inf, -np.inf, 3e38])
        values = np.zeros(len(self._payload) // 4, np.float32)
        values[self._rng.randrange(len(values))] = value
        return self._update(values.tobytes())

    def miscounted(self) -> Message:
        """Counts of examples that nobody has."""
        return self._update(self._payload, examples=self.choice([0, -1, -(2**62), 2**50, 2**63 - 1]))

    def duplicate(self) -> Message:
        """A real update, published once more."""
        return single(self._real())

    def foreign(self) -> Message:
        """Answers for clients and orders that don't exist."""
        changes: dict = self.choice([
            {"client": "nobody/0"}, {"client": ""}, {"client": "a\x1b[2J/0"}, {"client": "[/red]/0"},
            {"turn": 7}, {"turn": -1}, {"round": 99}, {"digest": "f" * 64}, {"id": "0" * 32},
            {"work": "initialise"},
        ])  # fmt: skip
        return self._update(self._payload, **changes)

    def old(self) -> Message:
        """Answers to another run, another federation, another version."""
        changes = self.choice([
            {"run": "0" * 16}, {"federation": "other"}, {"version": -1}, {"version": 2**62}, {"version": 0},
        ])  # fmt: skip
        return self._update(self._payload, **changes)

    def false_hash(self) -> Message:
        """A payload that isn't the one whose SHA-256 is claimed."""
        return self._update(self._rng.randbytes(len(self._payload)), sha256=hashlib.sha256(b"").hexdigest())

    def unfinished(self) -> Message:
        """The beginning of a message whose end never comes."""
        head = codec.encode(self._target.update(self._payload))
        nbytes = len(head) + len(self._payload)
        parts = [Part(new_id(), "update", 0, 3, nbytes, zlib.crc32(head), head)]
        if self._rng.random() < 0.5:
            some = self._payload[:8]
            parts.append(replace(parts[0], part=1, crc32=zlib.crc32(some), body=some))
        return Message(parts, is_judged=False)

    def stray(self) -> Message:
        """A part from the middle of nothing, or a mark of nobody's."""
        body = self._rng.randbytes(50)
        if self._rng.random() < 0.5:
            return Message([Part.single("mark", body)], is_judged=False)
        return Message([Part(new_id(), "update", 1, 3, 500, zlib.crc32(body), body)], is_judged=False)

    def bomb(self) -> Message:
        """Headers that claim to hold far more than they do, or nest without end."""
        header = self.choice([
            b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\x91" * 5000,
            b"\x81\xa1a" * 2000, b"\xc9\xff\xff\xff\xff\x01",
        ])  # fmt: skip
        head = b"WRN1" + struct.pack("<I", self.choice([len(header), len(header), 2**32 - 1])) + header
        return single(head + bytes(-len(head) % codec.ALIGNMENT))

    def mistyped(self) -> Message:
        """Headers whose fields are missing, surplus, or of another kind."""
        header = self._target.update(self._payload)
        key = self.choice(list(header))
        wrong = [None, [], {"k": "v"}, 1.5, "x", 7.0, b"x"]
        header[key] = self.choice([value for value in wrong if type(value) is not type(header[key])])
        if self._rng.random() < 0.3:
            del header[self.choice(list(header))]
        return self._packed(header, self._payload)

    def failing(self) -> Message:
        """Failure reports with words that no terminal should see."""
        return self._update(b"", error="\x1b[31m[/red]\n" * self.choice([1, 10, 1000]))

    def claim(self) -> Message:
        """Properties that no message can have; only its first part is sent."""
        body = codec.encode(self._target.update(self._payload))
        size = len(body)
        parts, part, nbytes = self.choice([
            (2**40, 0, size), (0, 0, size), (3, 5, size), (-1, 0, 1), (2, 0, 2**62), (1, 0, 2**40),
            (1, 0, 1), (5, 0, 10**9), (1, -1, size),
        ])  # fmt: skip
        return Message([Part(new_id(), "update", part, parts, nbytes, zlib.crc32(body), body)])

    def large(self) -> Message:
        """As much as a header may hold, in the one field whose value is told in the reason."""
        return self._packed({**self._target.update(b""), "work": "x" * LARGE_BYTES}, b"")

    def _update(self, payload: bytes, **changes: object) -> Message:
        return self._packed(self._target.update(payload, **changes), payload)

    def _packed(self, header: dict, payload: bytes) -> Message:
        return Message(codec.split("update", header, payload))

    def _real(self) -> bytes:
        return bytes(self.choice(self._target.real).body)
