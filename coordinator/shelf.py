"""Messages of a log that are read again: put together from their parts, their payloads on disk.

As `coordinator.spool` does for the open round, but for messages of any kind, and with no quota: what is put
here is what the journal names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordinator.slots import Slot, Slots
from shared import codec
from shared.broker.port import Part
from shared.errors import ChecksumError, ConfigError, MessageError
from shared.weights import Buffer

#: A message's login and id.
Key = tuple[str, str]
#: Payloads that came in one piece stay in memory, up to so many bytes in all.
MEMORY_BYTES = 32 << 20


@dataclass
class Message:
    """A message of a log: `offset` is that of its first part; whole once `done`.

    `head` is the SHA-256, in hex, of all that stands before the payload.
    """

    key: Key
    header: Mapping[str, Any]
    offset: int
    parts: int
    nbytes: int
    head: str
    received: int = 0
    next_part: int = 1
    done: bool = False
    inline: Buffer | None = None
    slot: Slot | None = None
    sha: Any = field(default_factory=hashlib.sha256)

    @property
    def sha256(self) -> str:
        """That of the payload as it was read."""
        return str(self.sha.hexdigest())


@dataclass(frozen=True)
class Broken:
    """A message that can't be put together, and why; `header` if that much could be read."""

    key: Key
    offset: int
    reason: str
    header: Mapping[str, Any] | None


class Shelf:
    """Not for several threads. `folder` is where payloads lie, in a file without a name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._slots = Slots(folder)
        self._unfinished: dict[Key, Message] = {}
        self._in_memory = 0

    def take(self, part: Part) -> Message | Broken | None:
        """Takes a part; returns the message that it completes or breaks.

        A part without the beginning of its message is passed over: it may be all that retention left.

        Raises:
            ConfigError: the folder does not take the payload.
        """
        key = (part.user_id, part.message_id)
        known = self._unfinished.get(key)
        if part.part != 0 and known is None:
            return None
        try:
            codec.check_part(part)
            return self._continue(known, part) if known else self._begin(key, part)
        except MessageError as error:
            self._unfinished.pop(key, None)
            self._give_back(known)
            first, header = (known.offset, known.header) if known else (part.offset, None)
            return Broken(key, first, f"part {part.part} of {part.parts}: {error}", header)
        except OSError as error:
            raise ConfigError(
                f"{self._folder} does not take what is read from the log ({error.strerror}): make room there"
            ) from error

    def payload(self, message: Message) -> Buffer:
        """A whole message's payload; valid until the message is discarded."""
        if message.slot is not None:
            return self._slots.view(message.slot, message.nbytes)
        return message.inline if message.inline is not None else b""

    def discard(self, message: Message) -> None:
        """Gives back what a whole message holds."""
        self._give_back(message)

    def give_up(self, key: Key) -> None:
        """Drops what has come of an unfinished message, if there is one."""
        self._give_back(self._unfinished.pop(key, None))

    def close(self) -> None:
        self._unfinished.clear()
        self._slots.close()

    def _begin(self, key: Key, part: Part) -> Message | None:
        header, payload = codec.decode(part.body)
        header_bytes = len(part.body) - len(payload)
        head = hashlib.sha256(memoryview(part.body)[:header_bytes]).hexdigest()
        nbytes = part.nbytes - header_bytes
        message = Message(key, header, part.offset, part.parts, nbytes, head)
        if part.parts == 1:
            return self._single(message, payload)
        if len(payload) or nbytes <= 0:
            raise MessageError("a message of several parts has its payload in the parts behind the first")
        message.slot = self._slots.take(nbytes)
        self._unfinished[key] = message
        return None

    def _single(self, message: Message, payload: memoryview) -> Message:
        message.sha.update(payload)
        if self._in_memory + len(payload) <= MEMORY_BYTES or not len(payload):
            self._in_memory += len(payload)
            message.inline = payload
        else:
            message.slot = self._slots.take(len(payload))
            self._slots.write(message.slot, 0, payload)
        message.done = True
        return message

    def _continue(self, message: Message, part: Part) -> Message | None:
        if part.part < message.next_part:
            # Sent once more after a lost connection.
            return None
        if part.part != message.next_part or part.parts != message.parts:
            raise MessageError(f"part {message.next_part} of {message.parts} is missing")
        if message.received + len(part.body) > message.nbytes:
            raise ChecksumError("the parts hold more bytes than their message claims")
        assert message.slot is not None
        message.sha.update(part.body)
        self._slots.write(message.slot, message.received, part.body)
        message.received += len(part.body)
        message.next_part += 1
        if message.next_part < message.parts:
            return None
        if message.received != message.nbytes:
            raise ChecksumError("the parts hold fewer bytes than their message claims")
        del self._unfinished[message.key]
        message.done = True
        return message

    def _give_back(self, message: Message | None) -> None:
        if message is None:
            return
        if message.slot is not None:
            self._slots.give_back(message.slot)
            message.slot = None
        elif message.inline is not None:
            self._in_memory -= len(message.inline)
            message.inline = None
