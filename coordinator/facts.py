"""What the coordinator knows: the state, and the journal entries that make it (`coordinator.applying`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal, NamedTuple

from coordinator.overlay import put, without
from coordinator.selection import Selection
from shared.messages import Work, order_id


@dataclass(frozen=True)
class Rules:
    """The part of the configuration that decides. Times in seconds."""

    seed: int = 0
    rounds: int = 1
    buffered: bool = False
    selection: Selection = field(default_factory=Selection)
    minimum: int = 1
    target: int | None = None
    deadline_s: float = 60.0
    on_missing: Literal["wait", "skip", "stop"] = "wait"
    min_clients: int = 1
    absent_s: float = 60.0
    concurrency: int = 1
    buffer: int = 1
    max_staleness: int = 0
    initial_from_site: bool = True
    evaluators: frozenset[str] = frozenset()
    evaluate_last: bool = False
    attest: bool = False


class Phase(StrEnum):
    """Where the federation stands."""

    GATHERING = "waiting for clients"
    INITIALISING = "initialising"
    OPEN = "open"
    CLOSING = "closing"
    EVALUATING = "evaluating the last version"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Order:
    """An assignment that was issued: what `shared.messages.Assignment` says to the client."""

    work: Work
    client: str
    round: int
    version: int
    digest: str
    turn: int
    issued_at: float

    @property
    def id(self) -> str:
        return order_id(self.work, self.client, self.round, self.digest, self.turn)


@dataclass(frozen=True)
class Answer:
    """An update as it lies in the results log; `refusal` is what its bytes alone already made of it.

    `head` is the SHA-256 of its header as it was sent, in hex; the header holds that of the payload.
    `forged`: they contradict themselves, so they are no answer of the client's.
    """

    id: str
    work: str
    client: str
    round: int
    version: int
    digest: str
    turn: int
    offset: int
    message_id: str
    sender: str
    examples: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    evaluated: int = 0
    evaluation: Mapping[str, float] = field(default_factory=dict)
    nbytes: int = 0
    head: str = ""
    error: str = ""
    refusal: str = ""
    forged: bool = False


class Closed(NamedTuple):
    """One accepted update in a `round-closing` entry; by its `head` no bit of it can change unnoticed."""

    client: str
    id: str
    version: int
    examples: int
    offset: int
    message_id: str
    sender: str
    head: str = ""

    @classmethod
    def of(cls, a: Answer) -> Closed:
        """The row of an answer that a round counts."""
        return cls(a.client, a.id, a.version, a.examples, a.offset, a.message_id, a.sender, a.head)


@dataclass(frozen=True)
class Entry:
    """A journal entry: `at` is the leader's clock in seconds since 1970; long lists travel in `rows`."""

    kind: str
    at: float
    data: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[Any] = ()


#: What an answer made of its order.
Outcome = Literal["accepted", "failed", "refused"]
COUNTS = ("accepted", "late", "duplicate", "refused", "failed", "evaluated", "readmitted")


@dataclass(frozen=True)
class State:
    """Everything known of one federation. Never changed, only replaced.

    `orders` are the assignments of the last `max_staleness + 1` versions, by id; `waiting` are those that
    the coordinator still waits for; `outcome` says how others were answered, and `settled` are those of
    them whose outcome the journal has; `superseded` are those that a later one stands in for. `accepted`
    are the answers that the round will count as things stand, in log order; `evaluations` those to orders
    that only evaluate its version, for which no round waits. `decided` is the results offset up to which
    every update has its verdict in a closed round; `read_from` the lowest offset that is still needed. When
    the results log has lost its end, nothing of that is known: up to `gap`, where it ended then, answers
    count only to orders that are waited for. `parent` is the state whose closing made this version, without a
    parent of its own; `hints` say where in the logs the parent's model lies. While a new leader is
    `rereading` the results log, what looks
    overdue may have its answer further on; `readmitted` are answers that it counts as soon as it has read the
    log up to where it was when an operator let them in. `appeals` are the requests that were decided.
    """

    rules: Rules
    run: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    phase: Phase = Phase.GATHERING
    clients: Mapping[str, str] = field(default_factory=dict)
    absent: frozenset[str] = frozenset()
    seen: Mapping[str, float] = field(default_factory=dict)
    round: int = 0
    version: int = -1
    digest: str = ""
    chain: Mapping[int, str] = field(default_factory=lambda: {-1: ""})
    opened_at: float = 0.0
    deadline_at: float = 0.0
    target: int | None = None
    cohort: tuple[str, ...] = ()
    orders: Mapping[str, Order] = field(default_factory=dict)
    waiting: Mapping[str, Order] = field(default_factory=dict)
    outcome: Mapping[str, Outcome] = field(default_factory=dict)
    settled: frozenset[str] = frozenset()
    superseded: frozenset[str] = frozenset()
    dead: Mapping[str, str] = field(default_factory=dict)
    accepted: Mapping[str, Answer] = field(default_factory=dict)
    evaluations: Mapping[str, Answer] = field(default_factory=dict)
    readmitted: tuple[tuple[int, Answer], ...] = ()
    appeals: frozenset[str] = frozenset()
    counts: Mapping[str, int] = field(default_factory=dict)
    refusals: Mapping[str, tuple[int, tuple[int, ...]]] = field(default_factory=dict)
    draws: int = 0
    closing: tuple[Closed, ...] = ()
    skipping: bool = False
    parent: State | None = None
    hints: Mapping[str, int] = field(default_factory=dict)
    rereading: bool = False
    decided: int = -1
    read_from: int = -1
    gap: int = -1
    outcome_code: int | None = None
    outcome_reason: str = ""

    @property
    def present(self) -> list[str]:
        """The registered clients whose sites aren't absent."""
        return [client for client, site in self.clients.items() if site not in self.absent]

    @property
    def trainable(self) -> list[str]:
        """Those of them that train."""
        absent = self.absent | self.rules.evaluators
        return [client for client, site in self.clients.items() if site not in absent]

    @property
    def sites(self) -> set[str]:
        return set(self.clients.values())

    def answered(self, id_: str, outcome: Outcome) -> State:
        """The state once the order has that outcome and nobody waits for it."""
        return replace(self, outcome=put(self.outcome, id_, outcome), waiting=without(self.waiting, (id_,)))


def config_digest(config: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of what every run of a federation must agree on."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
