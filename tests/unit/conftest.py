"""A federation without I/O: the real state machine, a journal and a results log that are lists."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

import pytest

from coordinator.applying import apply
from coordinator.facts import Answer, Entry, Order, Phase, Rules, State
from coordinator.moves import (
    Answered,
    Appealed,
    Append,
    CaughtUp,
    Command,
    Event,
    Finish,
    Fold,
    Folded,
    Issue,
    Resumed,
    Ruled,
    Started,
    Tick,
)
from coordinator.rounds import next_wake, step


@dataclass
class World:
    """Obeys commands as the driver does; `crash` begins anew from the two logs alone."""

    rules: Rules
    now: float = 1000.0
    journal: list[Entry] = field(default_factory=list)
    results: list[Answer] = field(default_factory=list)
    issued: list[Order] = field(default_factory=list)
    ruled: list[Ruled] = field(default_factory=list)
    ended: Finish | None = None

    def __post_init__(self) -> None:
        self.state = State(self.rules)
        self.feed(Started(self.now, "run", {}))

    def feed(self, event: Event) -> None:
        self.state, commands = step(self.state, event)
        for command in commands:
            self._obey(command)

    def _obey(self, command: Command) -> None:
        match command:
            case Append():
                self.journal += command.entries
            case Issue():
                self.issued += command.orders
            case Ruled():
                self.ruled.append(command)
            case Finish():
                self.ended = command
            case Fold():
                parts = [self.state.digest, *(row.id for row in command.rows)]
                made = hashlib.sha256("/".join(parts).encode()).hexdigest()
                self.feed(Folded(self.now, self.state.digest if self.state.skipping else made))

    def answer(self, order: Order, **changes: object) -> Ruled:
        """The order's client answers; returns the verdict."""
        offset = len(self.results)
        base = Answer(
            id=order.id, work=order.work, client=order.client, round=order.round, version=order.version,
            digest=order.digest, turn=order.turn, offset=offset, message_id=f"m{offset}",
            sender=order.client.partition("/")[0], examples=10, evaluated=10, evaluation={"accuracy": 0.5},
        )  # fmt: skip
        answer = replace(base, **changes)  # type: ignore[arg-type]
        self.results.append(answer)
        before = len(self.ruled)
        self.feed(Answered(self.now, answer, offset, offset + 1))
        assert len(self.ruled) == before + 1, "every answer gets exactly one verdict"
        return self.ruled[-1]

    def appeal(self, answer: Answer, *, request: str = "", **changes: object) -> str:
        """An operator asks for an update; returns why it was not let in, "" if it was."""
        offset = len(self.journal)
        given = replace(answer, **changes)  # type: ignore[arg-type]
        self.feed(Appealed(self.now, request or f"r{offset}", given, "looked at it", "ann", "boss"))
        (entry,) = [entry for entry in self.journal[offset:] if entry.kind == "readmitted"]
        return str(entry.data["refused"])

    def tick(self, seconds: float) -> None:
        """Lets time pass, with every wake-up that the state asks for on the way."""
        until = self.now + seconds
        while (wake := next_wake(self.state, self.now)) is not None and wake <= until:
            self.now = max(wake, self.now)
            self.feed(Tick(self.now))
            after = next_wake(self.state, self.now)
            assert after is None or after > self.now, "a tick at its time must move things"
        self.now = until

    def crash(self) -> None:
        """A new coordinator: folds the journal, rereads the results, goes on."""
        unsure: frozenset[str] = frozenset()
        state = State(self.rules)
        for entry in self.journal:
            before = state.orders.keys()
            state = apply(state, entry)
            issuing = entry.kind in ("round-opened", "assigned")
            unsure = frozenset(state.orders.keys() - before) if issuing else frozenset()
        decided, start = state.decided, max(state.read_from, 0)
        self.state = state
        if state.phase is Phase.FINISHED:
            return
        self.feed(Resumed(self.now))
        for answer in self.results[start:]:
            if answer.offset > decided:
                self.feed(Answered(self.now, answer, answer.offset, answer.offset + 1))
        self.feed(CaughtUp(self.now, unsure))

    def closings(self) -> list[Entry]:
        """The closing entries, their rows only the accepted updates."""
        return [replace(entry, rows=entry.rows[0]) for entry in self.journal if entry.kind == "round-closing"]


@pytest.fixture
def world() -> type[World]:
    return World
