"""A federation's quarantine as it stands, read from its journal, its store and its results log."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

from coordinator import journal
from coordinator.facts import Phase
from coordinator.journal import Reader
from coordinator.lease import is_dead
from coordinator.lookup import heads
from coordinator.petition import Petition
from coordinator.quarantine import Case, Quarantine, Refusals
from coordinator.state.port import Snapshot
from coordinator.target import Target
from shared.errors import ConfigError, FederationFailed, StateUnreachable

log = logging.getLogger(__name__)

#: Cases that are looked through for an assignment's id.
MOST = 1000


class Ward:
    """Reads journal and store once. `reader` stands at the journal's end."""

    def __init__(self, place: Target) -> None:
        """Opens a federation's.

        Raises:
            ConfigError: the federation was never started.
        """
        self._place = place
        self.reader = Reader()
        self.known = Quarantine()
        for record in journal.read(place.broker(), place.topology, self.reader):
            self.known.take(record.entry)
        if self.known.state is None:
            raise ConfigError(f"federation {place.federation!r} has nothing in its journal: check the name")
        self.run = self.known.state.run
        self._snapshot = self._read_store()

    def cases(self, limit: int) -> tuple[list[Case], int]:
        """The newest cases, each with what its header says; and how many there are beyond them."""
        cases = self.known.cases(self._open_refusals())
        newest = cases[:limit]
        offsets = [case.offset for case in newest if case.offset is not None]
        place, known = self._place, self.known
        found = {answer.offset: answer for answer in heads(place.broker(), place.topology, offsets)}
        looked_at = [
            known.looked_at(case, found[case.offset]) if case.offset in found else case for case in newest
        ]
        return looked_at, len(cases) - len(newest)

    def about(self, offset: int) -> list[Case]:
        """The cases of one update: it may have been refused more than once, if it was sent more than once."""
        return [case for case in self.known.cases(self._open_refusals()) if case.offset == offset]

    def named(self, id_: str) -> Case:
        """The newest case of an assignment whose id begins so.

        Raises:
            ConfigError: there is none.
        """
        for case in self.cases(MOST)[0]:
            if case.id.startswith(id_):
                return case
        raise ConfigError(f"there is no assignment {id_!r} in quarantine: see 'warren quarantine list'")

    def petition(self, offset: int, reason: str) -> Petition:
        """The request for the update at an offset.

        Raises:
            ConfigError: there is none.
        """
        answer = next(heads(self._place.broker(), self._place.topology, [offset]), None)
        if answer is None:
            raise ConfigError(f"no update lies at offset {offset}: see 'warren quarantine list'")
        return Petition(self.run, offset, answer.message_id, answer.sender, reason)

    def check_led(self) -> None:
        """Looks whether a coordinator can decide anything.

        Raises:
            FederationFailed: the federation has ended, or it is known that no coordinator leads it.
        """
        name, state = self._place.federation, self.known.state
        if state is not None and state.phase is Phase.FINISHED:
            raise FederationFailed(f"federation {name!r} has ended: no update counts any more")
        if self._snapshot is None:
            return
        leader = self._snapshot.leader
        if leader is None or is_dead(leader):
            raise FederationFailed(f"no coordinator leads federation {name!r} now: start one, and ask again")

    def _open_refusals(self) -> Refusals:
        """What the store says of refusals that the journal does not tell yet."""
        state = self.known.state
        if self._snapshot is None or state is None or state.phase in (Phase.GATHERING, Phase.CLOSING):
            return {}
        if self._snapshot.sections["round"].get("number") != str(state.round):
            return {}
        refused: dict[str, tuple[int, Sequence[int]]] = {}
        for reason, text in self._snapshot.sections["refused"].items():
            count, offsets = json.loads(text)
            refused[reason] = count, offsets
        return refused

    def _read_store(self) -> Snapshot | None:
        try:
            return self._place.store().read()
        except (ConfigError, StateUnreachable) as error:
            log.warning("what the open round refused is not shown: %s", error)
            return None
