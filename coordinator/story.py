"""What a journal tells of the past, for those who ask what else could have come of it. Pure.

A fold over the entries, as `coordinator.applying`; but it remembers what a coordinator may forget: every
order, when each round opened and closed, and who came and went in between.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from coordinator.applying import apply
from coordinator.facts import Entry, Order, Rules, State

#: Entries by which clients come and go.
PRESENCE = ("registered", "present", "absent")


@dataclass(frozen=True, slots=True)
class Past:
    """A closed round. Times are the leader's clock, in seconds since 1970; `deadline_at` is its last.

    It moved version `base` on, or left it as it was. `decided` is the results offset up to which it was read
    when it closed, `digest` that of the model then.
    """

    number: int
    base: int
    opened_at: float
    deadline_at: float
    closing_at: float
    closed_at: float
    decided: int
    digest: str


@dataclass
class Story:
    """All rounds, and the federation as it stood when the first one behind a version was open.

    `state` is that, under the rules that were asked for; None if no round was opened there. `first` is that
    round's number. `presence` are the clients that came and went, by the round that was the last to open;
    `deaths` are the orders that the broker gave up, with time and reason; `let_in` are the entries by which
    an operator had refused updates counted, by the round that was open.
    """

    state: State | None = None
    first: int = 0
    rounds: dict[int, Past] = field(default_factory=dict)
    orders: dict[str, Order] = field(default_factory=dict)
    presence: dict[int, list[Entry]] = field(default_factory=dict)
    deaths: dict[str, tuple[float, str]] = field(default_factory=dict)
    let_in: dict[int, list[Entry]] = field(default_factory=dict)


def story_of(entries: Iterable[Entry], rules: Rules, version: int) -> Story:
    """The story of a journal; replayed is what came behind the round that made `version`."""
    story, state = Story(), State(rules)
    closing: Entry | None = None
    made = False
    for entry in entries:
        if entry.kind == "round-closing":
            closing = entry
        before = state
        state = apply(state, entry)
        if made and story.state is None and entry.kind == "round-opened":
            story.state, story.first = apply(before, _under(rules, entry, before)), state.round
        if state.orders is not before.orders:
            story.orders.update(state.orders)
        if entry.kind in PRESENCE:
            story.presence.setdefault(state.round, []).append(entry)
        elif entry.kind == "failed":
            story.deaths[entry.data["id"]] = entry.at, entry.data["reason"]
        elif entry.kind == "readmitted" and not entry.data["refused"]:
            story.let_in.setdefault(state.round, []).append(entry)
        elif entry.kind == "round-closed" and closing is not None:
            story.rounds[state.round] = _past(before, closing, entry)
            made = made or state.version == version
    return story


def without(story: Story, sites: frozenset[str]) -> Story:
    """The same story, had these sites never been there."""
    state = story.state
    assert state is not None
    gone = {client for client, site in state.clients.items() if site in sites}
    orders = {id_: order for id_, order in state.orders.items() if order.client not in gone}
    left = replace(
        state,
        rules=replace(state.rules, evaluators=state.rules.evaluators - sites),
        clients={client: site for client, site in state.clients.items() if client not in gone},
        cohort=tuple(client for client in state.cohort if client not in gone),
        orders=orders,
        waiting={id_: order for id_, order in state.waiting.items() if id_ in orders},
    )
    presence = {
        number: [replace(entry, rows=_rows_without(entry, sites)) for entry in entries]
        for number, entries in story.presence.items()
    }
    return replace(story, state=left, presence=presence)


def _rows_without(entry: Entry, sites: frozenset[str]) -> list[Any]:
    registered = entry.kind == "registered"
    return [row for row in entry.rows if (row[0] if registered else row) not in sites]


def _under(rules: Rules, opened: Entry, state: State) -> Entry:
    """A `round-opened` entry as these rules would have made it of the same cohort."""
    target = rules.target or rules.selection.target(len(state.trainable), rules.minimum)
    data = {**opened.data, "deadline_at": opened.at + rules.deadline_s, "target": target}
    return replace(opened, data=data)


def _past(open_: State, closing: Entry, closed: Entry) -> Past:
    return Past(
        number=closed.data["round"],
        base=open_.version,
        opened_at=closing.data["opened_at"],
        deadline_at=open_.deadline_at,
        closing_at=closing.at,
        closed_at=closed.at,
        decided=closing.data["decided"],
        digest=closed.data["digest"],
    )
