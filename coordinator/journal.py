"""The journal: entries to messages and back, who leads, and what is void.

An entry carries its leader's token and its number since that leader began. Read in order, an entry counts
if its token is that of the last `leader` entry before it; the first entry with a token wins, since a publish
may be repeated. A number that was seen is a resend; one that is missing is an error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from coordinator.facts import Entry
from coordinator.reading import read_log
from shared import codec
from shared.broker.port import FIRST, Broker, Part, Publication
from shared.errors import JournalError, LeadershipLost, MessageError
from shared.messages import PROTOCOL, Mark, check_protocol
from shared.topology import Topology

log = logging.getLogger(__name__)

#: Journal entries with rows beyond one part are put together up to this many bytes.
MAX_ENTRY_BYTES = 256 << 20


@dataclass(frozen=True)
class Record:
    """An entry as it lies in the log: its offset, its leader's token, and its number under that leader."""

    offset: int
    token: str
    number: int
    entry: Entry


@dataclass
class Reader:
    """Reads the journal's parts in order. `epoch` is the offset of the leader entry that rules now."""

    leader: str = ""
    epoch: int = -1
    _next: int = 0
    _deposed: set[str] = field(default_factory=set)
    _assembler: codec.Assembler = field(default_factory=lambda: codec.Assembler(MAX_ENTRY_BYTES))

    def feed(self, part: Part) -> Record | None:
        """Takes a part; returns the record if it completes one that counts.

        Raises:
            JournalError: entries are missing.
        """
        if part.kind == Mark.KIND:
            return None
        record = self._decoded(part)
        if record is None:
            return None
        if record.entry.kind == "leader":
            return self._led(record)
        if record.token != self.leader or record.number < self._next:
            return None
        if record.number > self._next:
            raise JournalError(
                f"the journal lacks entries {self._next} to {record.number - 1} of epoch {self.epoch}: "
                f"the broker lost confirmed messages; restore its data, or start anew with --fresh"
            )
        self._next += 1
        return record

    def _led(self, record: Record) -> Record | None:
        if record.token == self.leader or record.token in self._deposed:
            return None
        self._deposed.add(self.leader)
        self.leader, self.epoch, self._next = record.token, record.offset, 1
        return record

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

    def lead(self, at: float, who: str) -> None:
        """Appends the `leader` entry: from here on every earlier leader's entries are void."""
        self.append([Entry("leader", at, {"who": who})])

    def append(self, entries: Sequence[Entry]) -> None:
        """Appends entries in one flight."""
        publications = []
        for entry in entries:
            header = {
                "protocol": PROTOCOL,
                "kind": entry.kind,
                "federation": self._topology.federation,
                "token": self.token,
                "number": self._number,
                "at": entry.at,
                "data": dict(entry.data),
            }
            self._number += 1
            payload = codec.pack(list(entry.rows)) if len(entry.rows) else b""
            parts = codec.split("journal", header, payload)
            publications += [Publication(self._topology.events, entry.kind, part) for part in parts]
        self._broker.publish(publications)


def read(broker: Broker, topology: Topology) -> Iterator[Record]:
    """The entries that count, from the journal's first to its last.

    Raises:
        JournalError: entries are missing.
    """
    reader = Reader()
    for part in read_log(broker, topology.events, topology.federation, FIRST):
        record = reader.feed(part)
        if record is not None:
            yield record


def watch(reader: Reader, token: str) -> Callable[[Part], None]:
    """A sink's check for a live leader: raises LeadershipLost when a part names another one."""

    def check(part: Part) -> None:
        record = reader.feed(part)
        if record is not None and record.token != token:
            who: Any = record.entry.data.get("who", "another coordinator")
            raise LeadershipLost(f"{who} leads this federation now; this coordinator stops")

    return check
