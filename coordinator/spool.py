"""Updates of the open round: parts in, whole messages out, large payloads on disk as memory maps.

Parts are put together by (login, message id). A message that is unfinished or not yet folded is *held*;
each login has a quota of unfinished messages and bytes, and one over its quota loses its own oldest only.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordinator.slots import Slot, Slots
from shared import codec
from shared.broker.port import Part
from shared.errors import ChecksumError, MessageError, OversizeError
from shared.messages import Update
from shared.weights import Buffer

Key = tuple[str, str]

#: Payloads up to a single part's size stay in memory, up to this many bytes in all; others go to disk.
MEMORY_BYTES = 32 << 20
#: Unfinished messages that one login may have, and their bytes in units of the largest payload allowed.
QUOTA_MESSAGES = 256
QUOTA_PAYLOADS = 64
#: What a decoded header takes in memory, by its length.
HEADER_FACTOR = 8
#: For so many versions an update that can only be late is awaited, to be told so.
AWAITED_VERSIONS = 16


@dataclass
class Arrival:
    """A message on its way: `first` and `last` are offsets in the results log. Whole once `done`.

    `head` is the SHA-256, in hex, of all that stands before the payload. Of one that is `late` no payload is
    kept: its base was too old before it was whole.
    """

    key: Key
    update: Update
    first: int
    parts: int
    nbytes: int
    header_bytes: int
    head: str
    last: int = -1
    received: int = 0
    next_part: int = 1
    done: bool = False
    late: bool = False
    inline: Buffer | None = None
    slot: Slot | None = None
    sha: Any = field(default_factory=hashlib.sha256)

    @property
    def sha256(self) -> str:
        return str(self.sha.hexdigest())

    @property
    def cost(self) -> int:
        """What it takes up while it is unfinished, in bytes."""
        return (0 if self.late else self.nbytes) + HEADER_FACTOR * self.header_bytes


@dataclass(frozen=True)
class Broken:
    """A message that can never become whole, and why."""

    key: Key
    offset: int
    reason: str


class Spool:
    """Not for several threads. `folder` is where large payloads lie, in a file without a name.

    `limit` is the largest payload, in bytes, that is taken (None: any). `stop` ends a wait for a full disk.
    """

    def __init__(self, folder: Path, stop: threading.Event | None = None) -> None:
        self._folder = folder
        self._stop = stop
        self._slots = Slots(folder, stop)
        self.limit: int | None = None
        self._unfinished: dict[Key, Arrival] = {}
        self._whole: dict[Key, Arrival] = {}
        self._in_memory = 0

    def another(self) -> Spool:
        """One more in the same folder, for payloads as large; it holds nothing yet."""
        spool = Spool(self._folder, self._stop)
        spool.limit = self.limit
        return spool

    def take(self, part: Part) -> Arrival | Broken | None:
        """Takes the next part of the log; returns what it completed or broke."""
        key = (part.user_id, part.message_id)
        try:
            codec.check_part(part)
            return self._begin(key, part) if part.part == 0 else self._continue(key, part)
        except MessageError as error:
            self._drop(self._unfinished.pop(key, None))
            return Broken(key, part.offset, str(error))

    def read_from(self, position: int) -> int:
        """The lowest offset that a recovering reader still needs, having read up to `position`."""
        needed = (arrival.first for arrival in self._unfinished.values() if not arrival.late)
        return min(needed, default=position + 1)

    def payload(self, key: Key) -> Buffer | None:
        """A whole message's payload, or None if it isn't held. It is valid until the message is discarded."""
        arrival = self._whole.get(key)
        if arrival is None:
            return None
        if arrival.slot is not None:
            return self._slots.view(arrival.slot, arrival.nbytes)
        return arrival.inline

    def discard(self, key: Key) -> None:
        """Gives back what a message holds."""
        self._drop(self._whole.pop(key, None))

    def give_up(self, login: str) -> None:
        """Drops what is unfinished of a login's, whose further parts are not taken any more."""
        for key in [key for key in self._unfinished if key[0] == login]:
            self._drop(self._unfinished.pop(key))

    def forget_outside(self, oldest: int, newest: int) -> None:
        """Drops unfinished updates on bases after `newest`, and what is held of those before `oldest`."""
        for key, arrival in list(self._unfinished.items()):
            version = arrival.update.version
            if not oldest - AWAITED_VERSIONS <= version <= newest:
                self._drop(self._unfinished.pop(key))
            elif version < oldest:
                self._drop(arrival)
                arrival.slot = arrival.inline = None
                arrival.late = True

    def close(self) -> None:
        self._unfinished.clear()
        self._whole.clear()
        self._slots.close()

    def _begin(self, key: Key, part: Part) -> Arrival | None:
        if key in self._unfinished or key in self._whole:
            return None
        header, payload = codec.decode(part.body)
        header_bytes = len(part.body) - len(payload)
        head = hashlib.sha256(memoryview(part.body)[:header_bytes]).hexdigest()
        size = part.nbytes - header_bytes
        if self.limit is not None and size > self.limit:
            raise OversizeError(f"its payload of {size} bytes is over the model's {self.limit}")
        # Only what is an update is held at all: other headers may be anything, and large.
        update = Update.from_header(header)
        arrival = Arrival(key, update, part.offset, part.parts, size, header_bytes, head)
        if part.parts == 1:
            return self._single(arrival, part, payload)
        if len(payload) or size <= 0:
            raise MessageError("a message of several parts has its payload in the parts behind the first")
        if size > codec.SINGLE_PART_BYTES:
            arrival.slot = self._slots.take(self.limit or size)
        else:
            arrival.inline = bytearray()
        self._unfinished[key] = arrival
        self._hold_to_quota(key)
        return None

    def _single(self, arrival: Arrival, part: Part, payload: memoryview) -> Arrival:
        arrival.sha.update(payload)
        if self._in_memory + len(payload) <= MEMORY_BYTES or not len(payload):
            self._in_memory += len(payload)
            arrival.inline = payload
        else:
            arrival.slot = self._slots.take(self.limit or len(payload))
            self._slots.write(arrival.slot, 0, payload)
        return self._finish(arrival, part)

    def _continue(self, key: Key, part: Part) -> Arrival | None:
        arrival = self._unfinished.get(key)
        if arrival is None or part.part < arrival.next_part:
            # A stray, or a part that a publisher sent once more after a lost connection.
            return None
        if part.part != arrival.next_part or part.parts != arrival.parts:
            raise MessageError(f"part {arrival.next_part} of {arrival.parts} is missing")
        if arrival.received + len(part.body) > arrival.nbytes:
            raise ChecksumError("the parts hold more bytes than their message claims")
        arrival.sha.update(part.body)
        self._add(arrival, part.body)
        arrival.received += len(part.body)
        arrival.next_part += 1
        if arrival.next_part < arrival.parts:
            return None
        if arrival.received != arrival.nbytes:
            raise ChecksumError("the parts hold fewer bytes than their message claims")
        self._in_memory += len(arrival.inline or b"")
        return self._finish(self._unfinished.pop(key), part)

    def _add(self, arrival: Arrival, data: Buffer) -> None:
        if arrival.slot is not None:
            self._slots.write(arrival.slot, arrival.received, data)
        elif isinstance(arrival.inline, bytearray):
            arrival.inline += data

    def _finish(self, arrival: Arrival, part: Part) -> Arrival:
        arrival.last, arrival.done = part.offset, True
        self._whole[arrival.key] = arrival
        return arrival

    def _hold_to_quota(self, key: Key) -> None:
        """Drops the login's oldest unfinished messages, but not its newest, until it is within its quota."""
        mine = [arrival for arrival in self._unfinished.values() if arrival.key[0] == key[0]]
        most = QUOTA_PAYLOADS * max(self.limit or codec.MAX_HEADER_BYTES, codec.PART_BYTES)
        total = sum(arrival.cost for arrival in mine)
        while len(mine) > 1 and (len(mine) > QUOTA_MESSAGES or total > most):
            oldest = mine.pop(0)
            total -= oldest.cost
            self._drop(self._unfinished.pop(oldest.key))

    def _drop(self, arrival: Arrival | None) -> None:
        if arrival is None:
            return
        if arrival.slot is not None:
            self._slots.give_back(arrival.slot)
        elif arrival.done:
            self._in_memory -= len(arrival.inline or b"")
