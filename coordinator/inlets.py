"""What the results log and the boxes bring, as events for the state machine."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from coordinator.config import Config
from coordinator.desk import Desk
from coordinator.facts import Answer, Entry, State
from coordinator.flood import REFUSAL, Floods
from coordinator.intake import plain
from coordinator.mirror import Mirror
from coordinator.moves import Answered, Died, Dropped, Event, Seen
from coordinator.presence import presence_in
from coordinator.results import Results
from coordinator.retention import Room
from coordinator.sparing import Sparing
from shared import codec
from shared.broker.port import Part
from shared.errors import MessageError
from shared.messages import Assignment, Mark, Readmit
from shared.weights import Layout

log = logging.getLogger(__name__)


class Inlets:
    """Reads parts in the log's order. `read_to`: answers up to that offset had their verdicts before.

    `nbytes` counts what came since it was last set to 0.
    """

    def __init__(self, config: Config, results: Results, desk: Desk, floods: Floods, mirror: Mirror) -> None:
        self._attest = config.security.attest
        self._results = results
        self._desk = desk
        self._floods = floods
        self._mirror = mirror
        self._room = Room(config)
        self._strange = Sparing()
        self.read_to = -1
        self.nbytes = 0

    def opening(self, entry: Entry, layout: Layout | None) -> None:
        """An entry is about to be appended: one that opens a round is held against the logs' limits.

        Raises:
            ConfigError: the first round's like would not fit the logs' limits.
        """
        if entry.kind == "round-opened" and layout is not None:
            self._room.opening(entry, layout)

    def result(self, part: Part, state: State, now: float) -> Iterator[Event]:
        """The results log's next part."""
        if not self._floods.take(part):
            yield from self._dropped(part, now)
        elif part.kind != Mark.KIND:
            yield from self._answered(part, state, now)
        for warning in self._floods.news():
            log.warning("%s", warning)

    def presence(self, part: Part, state: State, now: float) -> Iterator[Event]:
        """A worker says that it is there."""
        try:
            presence = presence_in(part, state.sites, self._attest)
        except MessageError as error:
            ending = self._strange.ending(part.user_id)
            if ending is not None:
                log.warning(
                    "presence from login %r passed over: %s%s", part.user_id, plain(str(error)), ending
                )
            return
        self._mirror.worker(f"{presence.site}/{presence.worker}", now, presence.doing, presence.answered)
        yield Seen(now, presence.site, tuple(presence.partitions))

    def dead(self, part: Part, state: State, now: float) -> Iterator[Event]:
        """The broker gave an assignment up, or an operator asks for something."""
        if part.kind == Readmit.KIND:
            appeal = self._desk.receive(part, state)
            if appeal is not None:
                yield appeal
            return
        try:
            codec.check_part(part)
            assignment = Assignment.from_header(codec.decode(part.body)[0])
        except MessageError as error:
            log.warning("a dead letter is no assignment: %s", error)
            return
        if assignment.run == state.run:
            yield Died(now, assignment.id, "its site never answered it")

    def _dropped(self, part: Part, now: float) -> Iterator[Event]:
        """Its login floods the log: none of it is kept."""
        self.nbytes += len(part.body)
        self._results.give_up(part.user_id)
        if part.kind != Mark.KIND and part.part == part.parts - 1 and part.offset > self.read_to:
            yield Dropped(now, part.offset, REFUSAL, self._results.read_from(part.offset))

    def _answered(self, part: Part, state: State, now: float) -> Iterator[Event]:
        self.nbytes += len(part.body)
        self._room.offered(state, part)
        answer = self._results.take(part)
        if answer is None:
            return
        if self._had_its_verdict(answer, part.offset, state):
            self._results.forget(answer)
            return
        yield Answered(now, answer, part.offset, self._results.read_from(part.offset))

    def _had_its_verdict(self, answer: Answer, offset: int, state: State) -> bool:
        """Whether it is read again only for what was unfinished beside it, or since the log lost its end."""
        return offset <= self.read_to or (offset < state.gap and answer.id not in state.waiting)
