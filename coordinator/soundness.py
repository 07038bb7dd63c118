"""Whether a journal can be believed: that all of it can be read, and that its rounds follow one another.

What its rounds were made of is another question: `coordinator.verification`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from coordinator import ledger
from coordinator.facts import config_digest
from coordinator.journal import MAX_ENTRY_BYTES
from coordinator.ledger import Ledger, Round
from coordinator.reading import read_log
from shared import codec
from shared.broker.port import FIRST, Broker, Checked
from shared.errors import ConfigError, JournalError, MessageError, VerificationFailed
from shared.messages import Mark
from shared.topology import Topology


def examine(broker: Broker, topology: Topology) -> tuple[Ledger, list[str]]:
    """The federation's ledger, and what is wrong with the journal that it was read from.

    Raises:
        ConfigError: the federation was never started.
        VerificationFailed: so much is wrong that there is no ledger.
    """
    if isinstance(broker, Checked) and (damage := broker.damage()):
        raise VerificationFailed(f"the folder that holds the logs is damaged: {damage[0]}")
    unreadable, begun = _survey(broker, topology)
    try:
        made = ledger.read(broker, topology)
        faults = [*unreadable, *_faults(made, begun)]
        # Read here, since a configuration that was changed may be none at all.
        _ = made.config
    except JournalError as error:
        raise VerificationFailed(unreadable[0] if unreadable else str(error)) from error
    except ConfigError as error:
        if not begun and not unreadable:
            raise
        wrong = (
            unreadable[0] if unreadable else f"the journal lacks an entry before offset {min(begun.values())}"
        )
        raise VerificationFailed(f"{wrong}; {error}") from error
    return made, faults


def _survey(broker: Broker, topology: Topology) -> tuple[list[str], dict[str, int]]:
    """What can't be read in the journal; and the offset of each token's first entry behind its `leader`."""
    assembler = codec.Assembler(MAX_ENTRY_BYTES)
    unreadable: list[str] = []
    begun: dict[str, int] = {}
    for part in read_log(broker, topology.events, topology.federation, FIRST):
        if part.kind == Mark.KIND:
            continue
        try:
            header, payload = assembler.feed(part) or ({}, b"")
            if len(payload):
                codec.unpack(payload)
        except MessageError as error:
            unreadable.append(f"the journal's entry at offset {part.offset} can't be read: {error}")
            continue
        if header.get("kind", "leader") != "leader":
            begun.setdefault(str(header.get("token")), part.offset)
    return unreadable, begun


def _faults(made: Ledger, begun: Mapping[str, int]) -> list[str]:
    faults = []
    if made.lacking:
        faults.append(f"the journal lacks an entry: the {made.lacking} behind the gap do not count")
    leaders = {leader.token for leader in made.leaders}
    unknown = [offset for token, offset in begun.items() if token not in leaders]
    if unknown:
        faults.append(f"the journal lacks an entry before offset {min(unknown)}: those behind do not count")
    if made.config_digest and made.config_digest != config_digest(made.binding):
        faults.append("the journal's configuration does not have the digest that it was started with")
    return faults


@dataclass
class Books:
    """Follows the rounds of a ledger, given in order. Pure."""

    buffered: bool
    _digest: str = ""
    _version: int = -1
    _counted: dict[str, int] = field(default_factory=dict)

    def faults(self, round_: Round) -> list[str]:
        """Takes the next round; returns what contradicts those before it."""
        faults = []
        if round_.parent != self._digest:
            one, other = round_.parent[:12] or "none", self._digest[:12] or "none"
            faults.append(f"the journal says that its parent is {one}, and the version before is {other}")
        if round_.version != self._version + (not round_.skipped):
            faults.append(f"the journal has version {self._version} before it")
        if round_.skipped and (round_.digest != self._digest or round_.rows):
            faults.append(f"round {round_.number} was skipped, and changed the model")
        clients: set[str] = set()
        for row in round_.rows:
            if row.id in self._counted:
                faults.append(
                    f"the update of {row.client} at offset {row.offset} counts twice: in round "
                    f"{self._counted[row.id]} and in round {round_.number}"
                )
            elif row.client in clients and not self.buffered:
                faults.append(f"two updates of {row.client} count in round {round_.number}")
            self._counted[row.id] = round_.number
            clients.add(row.client)
        self._digest, self._version = round_.digest, round_.version
        return faults
