"""Updates of the open round: parts in, whole messages out, large payloads on disk as memory maps.

Parts are put together by (login, message id). A message that is unfinished or not yet folded is *held*;
each login has a quota of unfinished bytes, and a login over its quota loses its own oldest ones only.
"""

from __future__ import annotations

import hashlib
import mmap
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from shared import codec
from shared.broker.port import Part
from shared.errors import ChecksumError, MessageError, OversizeError
from shared.weights import Buffer

Key = tuple[str, str]

#: Single-part payloads stay in memory up to this many bytes in all; beyond it they go to disk as well.
MEMORY_BYTES = 32 << 20
#: Unfinished messages that one login may have; in units of the largest message allowed.
QUOTA_MESSAGES = 8


@dataclass
class Arrival:
    """A message on its way: `first` and `last` are offsets in the results log. Whole once `done`."""

    key: Key
    header: Mapping[str, Any]
    first: int
    parts: int
    nbytes: int
    last: int = -1
    received: int = 0
    next_part: int = 1
    done: bool = False
    inline: Buffer | None = None
    file: BinaryIO | None = None
    sha: Any = field(default_factory=hashlib.sha256)

    @property
    def sha256(self) -> str:
        return str(self.sha.hexdigest())


@dataclass(frozen=True)
class Broken:
    """A message that can never become whole, and why."""

    key: Key
    offset: int
    reason: str


class Spool:
    """Not for several threads. `folder` is where large payloads lie, in files without a name.

    `limit` is the largest payload, in bytes, that is taken (None: any).
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.limit: int | None = None
        self._unfinished: dict[Key, Arrival] = {}
        self._whole: dict[Key, Arrival] = {}
        self._in_memory = 0

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
        return min((arrival.first for arrival in self._unfinished.values()), default=position + 1)

    def payload(self, key: Key) -> Buffer | None:
        """A whole message's payload, or None if it isn't held."""
        arrival = self._whole.get(key)
        if arrival is None:
            return None
        if arrival.inline is not None:
            return arrival.inline
        assert arrival.file is not None
        return memoryview(mmap.mmap(arrival.file.fileno(), 0, access=mmap.ACCESS_READ))

    def discard(self, key: Key) -> None:
        """Gives back what a message holds; a map that is in use stays valid."""
        self._drop(self._whole.pop(key, None))

    def forget_older(self, version: int) -> None:
        """Drops unfinished updates whose base is older than `version`: they could only be late."""
        for key, arrival in list(self._unfinished.items()):
            base = arrival.header.get("version")
            if not isinstance(base, int) or base < version:
                self._drop(self._unfinished.pop(key))

    def close(self) -> None:
        for arrival in (*self._unfinished.values(), *self._whole.values()):
            self._drop(arrival)
        self._unfinished.clear()
        self._whole.clear()

    def _begin(self, key: Key, part: Part) -> Arrival | None:
        if key in self._unfinished or key in self._whole:
            return None
        header, payload = codec.decode(part.body)
        size = part.nbytes - (len(part.body) - len(payload))
        if self.limit is not None and size > self.limit:
            raise OversizeError(f"its payload of {size} bytes is over the model's {self.limit}")
        arrival = Arrival(key, header, part.offset, part.parts, size)
        if part.parts == 1:
            return self._single(arrival, part, payload)
        if len(payload):
            raise MessageError("part 0 of several holds no payload")
        self._unfinished[key] = arrival
        self._hold_to_quota(key)
        return None

    def _single(self, arrival: Arrival, part: Part, payload: memoryview) -> Arrival:
        arrival.sha.update(payload)
        if self._in_memory + len(payload) <= MEMORY_BYTES or not len(payload):
            self._in_memory += len(payload)
            arrival.inline = payload
        else:
            self._write(arrival, payload)
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
        self._write(arrival, part.body)
        arrival.received += len(part.body)
        arrival.next_part += 1
        if arrival.next_part < arrival.parts:
            return None
        if arrival.received != arrival.nbytes:
            raise ChecksumError("the parts hold fewer bytes than their message claims")
        return self._finish(self._unfinished.pop(key), part)

    def _write(self, arrival: Arrival, data: Buffer) -> None:
        if arrival.file is None:
            # Without a name: what is held ends with this process, and the log has it all.
            arrival.file = tempfile.TemporaryFile(buffering=0, dir=self._folder)  # noqa: SIM115
        view = memoryview(data)
        while len(view):
            view = view[arrival.file.write(view) :]

    def _finish(self, arrival: Arrival, part: Part) -> Arrival:
        arrival.last, arrival.done = part.offset, True
        self._whole[arrival.key] = arrival
        return arrival

    def _hold_to_quota(self, key: Key) -> None:
        if self.limit is None:
            return
        mine = [a for a in self._unfinished.values() if a.key[0] == key[0]]
        excess = sum(a.nbytes for a in mine) - QUOTA_MESSAGES * max(self.limit, codec.PART_BYTES)
        for arrival in mine:
            if excess <= 0 or arrival.key == key:
                return
            excess -= arrival.nbytes
            self._drop(self._unfinished.pop(arrival.key))

    def _drop(self, arrival: Arrival | None) -> None:
        if arrival is None:
            return
        if arrival.file is not None:
            arrival.file.close()
        if arrival.done and arrival.inline is not None:
            self._in_memory -= len(arrival.inline)
