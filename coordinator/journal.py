"""The journal: entries to messages and back, who leads, and what is void.

An entry carries its leader's token and its number since that leader began. A `leader` entry says after which
entry it comes, by its predecessor's token and next number, and counts only there: so nobody leads who has
not read everything that counts, and nobody who was deposed comes back. Read in order, an entry counts if its
token is that of the last `leader` entry that counts.

A number that was seen is a resend. What stands behind a gap is held until its leader has appended again
what is missing; if another leader comes first, it is void, for every reader.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from coordinator.facts import Entry
from coordinator.reading import read_log
from shared import codec
from shared.broker.port import FIRST, Broker, Part, Publication
from shared.errors import LeadershipLost, MessageError
from shared.messages import PROTOCOL, Mark, check_protocol
from shared.runtime import THREADS, Runtime
from shared.topology import Topology

log = logging.getLogger(__name__)

#: Journal entries with rows beyond one part are put together up to this many bytes.
MAX_ENTRY_BYTES = 256 << 20
#: Entries behind a gap that a reader holds; a broker loses some at the very end of a log.
MAX_HELD = 10_000
#: Entries that a leader can append again.
MAX_KEPT = 500


@dataclass(frozen=True)
class Record:
    """An entry as it lies in the log: its offset, its leader's token, and its number under that leader."""

    offset: int
    token: str
    number: int
    entry: Entry


@dataclass
class Reader:
    """Reads the journal's parts in order. `epoch` is the offset of the leader entry that rules now.

    `trusted`: the offset of a leader entry that is known to count, for a reader that begins there; None:
    the reader begins at the journal's first entry.
    """

    trusted: int | None = None
    leader: str = ""
    epoch: int = -1
    #: The number that the leader's next entry has.
    next: int = 0
    #: The offset of the last part that was fed.
    position: int = -1
    _held: dict[int, Record] = field(default_factory=dict)
    _deposed: set[str] = field(default_factory=set)
    _assembler: codec.Assembler = field(default_factory=lambda: codec.Assembler(MAX_ENTRY_BYTES))

    @property
    def place(self) -> list[Any]:
        """Where the journal stands: what a `leader` entry names that comes next."""
        return [self.leader, self.next]

    @property
    def held(self) -> int:
        """How many entries stand behind a gap."""
        return len(self._held)

    def feed(self, part: Part) -> list[Record]:
        """Takes a part; returns the records that count from now on, in order."""
        self.position = max(self.position, part.offset)
        record = self._decoded(part) if part.kind != Mark.KIND else None
        if record is None:
            return []
        if record.entry.kind == "leader":
            return self._led(record)
        if record.token != self.leader or record.number < self.next:
            return []
        if len(self._held) < MAX_HELD:
            self._held[record.number] = record
        return self._in_order()

    def _in_order(self) -> list[Record]:
        ready = []
        while (record := self._held.pop(self.next, None)) is not None:
            ready.append(record)
            self.next += 1
        return ready

    def _led(self, record: Record) -> list[Record]:
        after = record.entry.data.get("after")
        if record.offset != self.trusted and (after != self.place or record.token in self._deposed):
            return []
        if self._held:
            log.warning(
                "the journal lacks entry %d of epoch %d: the %d behind it are void, %s goes on from before",
                self.next, self.epoch, self.held, record.entry.data.get("who", "another coordinator"),
            )  # fmt: skip
        self._held.clear()
        self._deposed.add(self.leader)
        self.leader, self.epoch, self.next = record.token, record.offset, record.number + 1
        return [record]

    def _decoded(self, part: Part) -> Record | None:
        """The record that a part completes; what is malformed is no coordinator's, and passed over."""
        try:
            whole = self._assembler.feed(part)
            if whole is None:
                return None
            header, payload = whole
            check_protocol(header)
            rows = codec.unpack(payload) if len(payload) else []
            entry = Entry(str(header["kind"]), float(header["at"]), dict(header["data"]), rows)
            return Record(part.offset, str(header["token"]), int(header["number"]), entry)
        except (MessageError, KeyError, TypeError, ValueError) as error:
            log.warning("journal: passed over a malformed entry at offset %d: %s", part.offset, error)
            return None


class Writer:
    """Appends a leader's entries, numbered. Each append returns when the broker has confirmed it."""

    def __init__(self, broker: Broker, topology: Topology, token: str) -> None:
        self._broker = broker
        self._topology = topology
        self.token = token
        self._number = 0
        self._kept: deque[tuple[int, Entry]] = deque(maxlen=MAX_KEPT)

    def lead(self, at: float, who: str, after: Sequence[Any]) -> None:
        """Appends a `leader` entry for right behind `after`, which is a `Reader.place`.

        It counts if nothing that counts came in between: then every earlier leader's entries are void.
        """
        # Number 0 once more: an attempt that did not count was none.
        self._number = 0
        self._kept.clear()
        self.append([Entry("leader", at, {"who": who, "after": list(after)})])

    def append(self, entries: Sequence[Entry]) -> None:
        """Appends entries in one flight."""
        numbered = list(enumerate(entries, self._number))
        self._number += len(entries)
        self._kept += numbered
        self._publish(numbered)

    def restore(self) -> None:
        """Appends the newest entries again: readers pass over those that the log still has."""
        self._publish(list(self._kept))

    def _publish(self, numbered: Sequence[tuple[int, Entry]]) -> None:
        publications = []
        for number, entry in numbered:
            header = {
                "protocol": PROTOCOL,
                "kind": entry.kind,
                "federation": self._topology.federation,
                "token": self.token,
                "number": number,
                "at": entry.at,
                "data": dict(entry.data),
            }
            payload = codec.pack(list(entry.rows)) if len(entry.rows) else b""
            parts = codec.split("journal", header, payload)
            publications += [Publication(self._topology.events, entry.kind, part) for part in parts]
        self._broker.publish(publications)


def read(
    broker: Broker, topology: Topology, reader: Reader | None = None, runtime: Runtime = THREADS
) -> Iterator[Record]:
    """The entries that count, from the journal's first, or from where `reader` stands, to its last."""
    reader = reader or Reader()
    start = reader.position + 1 if reader.position >= 0 else FIRST
    for part in read_log(broker, topology.events, topology.federation, start, runtime):
        yield from reader.feed(part)


def watch(reader: Reader, token: str) -> Callable[..., tuple[()]]:
    """A live leader's look at the journal's parts: raises LeadershipLost when one names another leader."""

    def check(part: Part, *_: object) -> tuple[()]:
        for record in reader.feed(part):
            if record.token != token:
                raise deposed_by(record)
        return ()

    return check


def deposed_by(record: Record) -> LeadershipLost:
    """The error of a leader that reads another one's `leader` entry."""
    who = record.entry.data.get("who", "another coordinator")
    return LeadershipLost(f"{who} leads this federation now; this coordinator stops")
