"""What rounds would have counted under other rules: the state machine, run again on recorded answers.

Pure, and no estimate but in its times. The first round begins with the cohort that it had. From there on the
state machine decides as it does in life: who is asked, when a round closes and with what. A client takes as
long for its answer as it did; an order that was never given in life is never answered here; and a new version
has the digest of the recorded one of its round, since that is what the clients were asked to train on.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from math import inf

from coordinator.applying import apply
from coordinator.arrivals import Came
from coordinator.facts import Answer, Closed, Entry, Order, Phase, State
from coordinator.moves import (
    Answered,
    Appealed,
    Append,
    Command,
    Died,
    Event,
    Finish,
    Fold,
    Folded,
    Issue,
    Seen,
    Tick,
)
from coordinator.rounds import next_wake, step
from coordinator.story import Past, Story
from coordinator.validation import judge, unfit

#: Deadlines in a row that may pass with nothing in between: what comes later is no time, but a claim.
PATIENCE = 100
#: The reason why no more rounds are decided, when there were no more.
ALL = "these were all"


@dataclass(frozen=True)
class Decided:
    """A round as it would have closed: its updates, and how many versions behind each of them is.

    `seconds` are from its opening to the next version.
    """

    number: int
    rows: tuple[Closed, ...]
    behind: tuple[int, ...]
    seconds: float


@dataclass(frozen=True)
class Redecided:
    """The rounds that would have closed, in order; `reason` says why there are no more of them."""

    rounds: tuple[Decided, ...]
    reason: str


def redecide(story: Story, came: Iterable[Came]) -> Redecided:
    """Decides the story's rounds anew, by the rules in its state."""
    return _Rerun(story, came).run()


def recount(story: Story, answers: Iterable[Answer]) -> Redecided:
    """Buffered mode: each round closes where it did in the log, and counts all that is fresh enough there."""
    assert story.state is not None
    state = replace(story.state, orders=story.orders)
    rounds = [past for number, past in sorted(story.rounds.items()) if number >= story.first]
    rows: dict[int, list[Closed]] = {past.number: [] for past in rounds}
    ends = [past.decided for past in rounds]
    for past in rounds:
        open_ = replace(state, version=past.base, phase=Phase.OPEN)
        for answer in map(_let_in, story.let_in.get(past.number, ())):
            if answer.client in state.clients and not unfit(open_, answer):
                state = state.answered(answer.id, "accepted")
                rows[past.number].append(Closed.of(answer))
    for answer in answers:
        place = bisect_left(ends, answer.offset)
        if answer.offset <= story.state.decided or place == len(rounds) or answer.work != "train":
            continue
        past = rounds[place]
        if judge(replace(state, version=past.base), answer).ruling == "accepted":
            state = state.answered(answer.id, "accepted")
            rows[past.number].append(Closed.of(answer))
    return Redecided(tuple(_as_counted(past, sorted(rows[past.number])) for past in rounds), ALL)


def _let_in(entry: Entry) -> Answer:
    return Answer(**entry.data["update"])


def _as_counted(past: Past, rows: Sequence[Closed]) -> Decided:
    behind = tuple(past.base - row.version for row in rows)
    return Decided(past.number, tuple(rows), behind, past.closed_at - past.opened_at)


class _Rerun:
    """One run: a clock, what is due, and the state machine."""

    def __init__(self, story: Story, came: Iterable[Came]) -> None:
        assert story.state is not None
        self._story = story
        # Who came and went is told by the journal, not by silence.
        self._state: State = replace(story.state, rules=replace(story.state.rules, absent_s=inf))
        self._answers: dict[str, list[Came]] = {}
        for one in came:
            self._answers.setdefault(one.answer.id, []).append(one)
        self._now = self._state.opened_at
        self._decided = self._state.decided
        self._due: list[tuple[float, int, int, Event | Entry]] = []
        self._number = count()
        self._last = max(story.rounds, default=0)
        self._made: list[Decided] = []
        self._idle = 0
        self._reason = ""

    def run(self) -> Redecided:
        self._opened()
        for order in self._state.orders.values():
            self._expect(order)
        while not self._reason and len(self._made) <= self._last - self._story.first:
            self._go_on()
        return Redecided(tuple(self._made), self._reason or ALL)

    def _go_on(self) -> None:
        """Takes what is due next: something recorded, or a deadline."""
        wake = next_wake(self._state, self._now)
        if self._due and (wake is None or self._due[0][0] <= wake):
            at, _, _, event = heapq.heappop(self._due)
            self._now, self._idle = max(self._now, at), 0
            self._take(event)
        elif wake is not None and wake < inf:
            closed = len(self._made)
            self._now, self._idle = max(self._now, wake), self._idle + 1
            self._feed(Tick(self._now))
            if len(self._made) == closed and (not self._may_come() or self._idle > PATIENCE):
                self._stall()
        else:
            self._stall()

    def _may_come(self) -> bool:
        """Whether anything recorded is due, or an answer to an order that the open round may still give."""
        state = self._state
        asked = (id_ for id_ in self._answers if id_ not in state.orders)
        return bool(self._due) or any(self._story.orders[id_].round == state.round for id_ in asked)

    def _take(self, event: Event | Entry) -> None:
        if not isinstance(event, Entry):
            self._feed(replace(event, now=self._now))
        elif event.kind == "absent":
            self._state = apply(self._state, event)
        else:
            for row in event.rows:
                site, partitions = (row, ()) if event.kind == "present" else row
                self._feed(Seen(self._now, site, tuple(partitions)))

    def _stall(self) -> None:
        state, least = self._state, self._state.rules.minimum
        if state.phase is Phase.GATHERING:
            waits = f"round {state.round + 1} would have waited for clients: {len(state.trainable)}"
        else:
            waits = f"round {state.round} would have gone on waiting for updates: {len(state.accepted)}"
        self._reason = self._reason or f"{waits} of at least {least}"

    # --- the machine, and what it wants done

    def _feed(self, event: Event) -> None:
        self._state, commands = step(self._state, event)
        for command in commands:
            self._obey(command)

    def _obey(self, command: Command) -> None:
        match command:
            case Append():
                if any(entry.kind == "round-opened" for entry in command.entries):
                    self._opened()
            case Issue():
                for order in command.orders:
                    self._expect(order)
            case Fold():
                self._fold(command.rows)
            case Finish():
                self._reason = command.reason

    def _fold(self, rows: Sequence[Closed]) -> None:
        state = self._state
        orders = [state.orders[row.id] for row in rows]
        # Each row's version is the one in the log, even where rounds were skipped here and not there.
        kept = tuple(row._replace(version=self._story.orders[row.id].version) for row in rows)
        behind = tuple(state.version - order.version for order in orders)
        past = self._story.rounds[state.round]
        self._now += past.closed_at - past.closing_at
        self._made.append(Decided(state.round, kept, behind, self._now - state.opened_at))
        if state.round < self._last:
            self._feed(Folded(self._now, past.digest))

    def _opened(self) -> None:
        """Clients that came or went behind this round's opening do so again; an operator asks again."""
        past = self._story.rounds.get(self._state.round)
        if past is None:
            return
        for entry in self._story.presence.get(past.number, ()):
            self._plan(self._state.opened_at + entry.at - past.opened_at, entry)
        for entry in self._story.let_in.get(past.number, ()):
            at = self._state.opened_at + entry.at - past.opened_at
            said = (entry.data[name] for name in ("reason", "who", "login"))
            self._plan(at, Appealed(at, entry.data["request"], _let_in(entry), *said))

    def _expect(self, order: Order) -> None:
        """What its client answered to the order, or the broker, comes as long behind it as it did."""
        for came in self._answers.get(order.id, ()):
            if order.work != "evaluate" and came.answer.offset > self._decided:
                answer = replace(came.answer, version=order.version)
                at = order.issued_at + came.after_s
                self._plan(at, Answered(at, answer, answer.offset, answer.offset + 1), answer.offset)
        if order.id in self._story.deaths:
            at, reason = self._story.deaths[order.id]
            at += order.issued_at - self._story.orders[order.id].issued_at
            self._plan(at, Died(at, order.id, reason))

    def _plan(self, at: float, event: Event | Entry, offset: int = -1) -> None:
        """What is due at the same time comes in the order of the results log."""
        heapq.heappush(self._due, (at, offset, next(self._number), event))
