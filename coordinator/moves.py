"""What happens to the state machine, and what it wants done: events, commands, and a step under way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coordinator.applying import apply
from coordinator.facts import Answer, Closed, Entry, Order, State
from coordinator.validation import Verdict

# --- events: what happened, and when (`now`, seconds since 1970)


@dataclass(frozen=True)
class Started:
    """A leader begins: `run` and `config` are those of a new federation."""

    now: float
    run: str
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Seen:
    """A worker of a site says that it is there, with these partitions."""

    now: float
    site: str
    partitions: tuple[str, ...]


@dataclass(frozen=True)
class Answered:
    """The results log was read up to `position`; nothing before `read_from` is needed any more."""

    now: float
    answer: Answer
    position: int
    read_from: int


@dataclass(frozen=True)
class Appealed:
    """An operator asks that a refused update count. `request` is the id of the message that asks, once.

    `answer` is what the update's bytes tell, of values of any size; `who` asks, under that `login`.
    """

    now: float
    request: str
    answer: Answer
    reason: str
    who: str
    login: str


@dataclass(frozen=True)
class Dropped:
    """A whole message at `offset` of the results log was not read, for that reason."""

    now: float
    offset: int
    reason: str
    read_from: int


@dataclass(frozen=True)
class Died:
    """The broker gave an assignment up."""

    now: float
    id: str
    reason: str


@dataclass(frozen=True)
class Tick:
    """Time has passed."""

    now: float


@dataclass(frozen=True)
class Folded:
    """The closing round's model is made: its digest, and what the driver knows of the round."""

    now: float
    digest: str
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Resumed:
    """A new leader has read the journal, and not yet the results log."""

    now: float


@dataclass(frozen=True)
class CaughtUp:
    """A new leader has read the logs to their end; `unsure` are the orders that may never have gone out."""

    now: float
    unsure: frozenset[str]


@dataclass(frozen=True)
class ResultsLost:
    """The results log no longer reaches as far as it was read; it ends at `end` now."""

    now: float
    end: int


Event = (
    Started | Seen | Answered | Appealed | Dropped | Died | Tick | Folded | Resumed | CaughtUp | ResultsLost
)


# --- commands: what the driver shall do


@dataclass(frozen=True)
class Append:
    """Write these to the journal, and wait for the confirm."""

    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Admit:
    """Make the site's queue, if it is not there."""

    site: str


@dataclass(frozen=True)
class Issue:
    """Publish the model's round task, if it isn't in the log yet, and these assignments."""

    orders: tuple[Order, ...]


@dataclass(frozen=True)
class Fold:
    """Make the next model of the accepted updates, then come back with `Folded`. None accepted: the same."""

    rows: tuple[Closed, ...]


@dataclass(frozen=True)
class Forget:
    """The answer's payload will not be needed."""

    answer: Answer


@dataclass(frozen=True)
class Ruled:
    """For people: an answer's verdict."""

    answer: Answer
    verdict: Verdict


@dataclass(frozen=True)
class Finish:
    """The federation is over."""

    code: int
    reason: str


Command = Append | Admit | Issue | Fold | Forget | Ruled | Finish


class Turn:
    """One step under way: the state as it becomes, and the commands so far."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._commands: list[Command] = []

    def append(self, kind: str, at: float, data: Mapping[str, Any], rows: Sequence[Any] = ()) -> None:
        """Writes an entry and applies it. Entries in a row go out in one flight."""
        entry = Entry(kind, at, data, rows)
        self.state = apply(self.state, entry)
        last = self._commands[-1] if self._commands else None
        if isinstance(last, Append):
            self._commands[-1] = Append((*last.entries, entry))
        else:
            self._commands.append(Append((entry,)))

    def do(self, command: Command) -> None:
        self._commands.append(command)

    def assign(self, now: float, work: str, rows: Sequence[tuple[str, int, str]], deadline_at: float) -> None:
        """Orders beyond the cohort's first: (client, turn, id of the order that it stands in for)."""
        before = self.state.orders.keys()
        data = {"work": work, "deadline_at": deadline_at, "draws": self.state.draws + len(rows)}
        self.append("assigned", now, data, [list(row) for row in rows])
        self.do(Issue(tuple(o for id_, o in self.state.orders.items() if id_ not in before)))

    def commands(self) -> tuple[Command, ...]:
        return tuple(self._commands)
