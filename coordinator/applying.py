"""The fold over the journal: `apply(state, entry) -> state`.

It is pure and decides nothing: deciding is `coordinator.rounds`, which appends entries and applies the very
same ones. So a coordinator that starts, recovers, takes over or replays knows what the one before it knew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from coordinator.facts import Answer, Closed, Entry, Order, Outcome, Phase, State
from coordinator.overlay import without
from shared.messages import Work

Row = Sequence[Any]


def apply(state: State, entry: Entry) -> State:
    """The state after an entry. Kinds that change nothing that decides are passed through."""
    change = _APPLY.get(entry.kind)
    return change(state, entry) if change else state


def _started(state: State, entry: Entry) -> State:
    return replace(state, run=entry.data["run"], config=entry.data["config"])


def _registered(state: State, entry: Entry) -> State:
    new = {f"{site}/{partition}": site for site, partitions in entry.rows for partition in partitions}
    return replace(state, clients={**state.clients, **new})


def _absent(state: State, entry: Entry) -> State:
    return replace(state, absent=state.absent | set(entry.rows))


def _present(state: State, entry: Entry) -> State:
    return replace(state, absent=state.absent - set(entry.rows))


def _opened(state: State, entry: Entry) -> State:
    state = replace(
        state,
        phase=Phase.OPEN,
        round=entry.data["round"],
        opened_at=entry.at,
        deadline_at=entry.data["deadline_at"],
        target=entry.data["target"],
        cohort=tuple(entry.rows),
    )
    state = _ordered(state, "train", [(client, 0, "") for client in entry.rows], entry.at)
    # No round waits for those who only evaluate.
    asked = _ordered(state, "evaluate", [(client, 0, "") for client in entry.data["evaluators"]], entry.at)
    return replace(asked, waiting=state.waiting)


def _assigned(state: State, entry: Entry) -> State:
    data = entry.data
    work: Work = data["work"]
    state = replace(state, draws=data["draws"], deadline_at=data["deadline_at"])
    if work == "initialise":
        state = replace(state, phase=Phase.INITIALISING)
    elif work == "evaluate":
        state = replace(state, phase=Phase.EVALUATING)
    return _ordered(state, work, entry.rows, entry.at)


def _ordered(state: State, work: Work, rows: Sequence[Row], at: float) -> State:
    made = [
        Order(work, client, state.round, state.version, state.digest, turn, at) for client, turn, _ in rows
    ]
    replaced = {before for _, _, before in rows if before}
    new = {order.id: order for order in made}
    return replace(
        state,
        orders={**state.orders, **new},
        waiting={**without(state.waiting, replaced), **new},
        superseded=state.superseded | replaced,
    )


def _failed(state: State, entry: Entry) -> State:
    id_ = entry.data["id"]
    dead = {**state.dead, id_: entry.data["reason"]}
    return replace(state, dead=dead, waiting=without(state.waiting, {id_}))


def _readmitted(state: State, entry: Entry) -> State:
    data = entry.data
    state = replace(state, appeals=state.appeals | {data["request"]})
    if data["refused"]:
        return state
    answer = Answer(**data["update"])
    return replace(
        state,
        readmitted=(*state.readmitted, (data["position"], answer)),
        settled=state.settled - {answer.id},
    )


def _closing(state: State, entry: Entry) -> State:
    accepted, settled, _ = entry.rows
    rows = tuple(Closed(*row) for row in accepted)
    outcome: dict[str, Outcome] = {**state.outcome, **dict(settled), **{row.id: "accepted" for row in rows}}
    return replace(
        state,
        phase=Phase.CLOSING,
        closing=rows,
        skipping=entry.data["skipped"],
        outcome=outcome,
        settled=frozenset(outcome),
        waiting=without(state.waiting, outcome.keys()),
        decided=entry.data["decided"],
        read_from=entry.data["read_from"],
        readmitted=(),
        gap=-1,
    )


def _results_lost(state: State, entry: Entry) -> State:
    end = entry.data["end"]
    there = tuple((position, answer) for position, answer in state.readmitted if answer.offset < end)
    return replace(state, decided=-1, read_from=-1, gap=end, readmitted=there)


def _closed(state: State, entry: Entry) -> State:
    version, digest = entry.data["version"], entry.data["digest"]
    parent = state.parent if state.skipping else replace(state, parent=None)
    return replace(
        state,
        **_remembered(state, version),
        parent=parent,
        hints=entry.data.get("hints", state.hints),
        phase=Phase.GATHERING,
        version=version,
        digest=digest,
        chain={**state.chain, version: digest},
        cohort=(),
        accepted={},
        evaluations={},
        counts={},
        refusals={},
    )


def _finished(state: State, entry: Entry) -> State:
    return replace(
        state,
        phase=Phase.FINISHED,
        waiting={},
        outcome_code=entry.data["code"],
        outcome_reason=entry.data["reason"],
    )


def _remembered(state: State, version: int) -> dict[str, Any]:
    """Drops what belongs to versions too old to count on `version`, now that it is made.

    In rounds mode nobody waits for older rounds' orders: what they still bring is a gift. In buffered mode
    an order keeps its place until it is answered or overdue, however old its version.
    """
    oldest = version - state.rules.max_staleness
    waiting = state.waiting if state.rules.buffered else {}
    orders = {id_: order for id_, order in state.orders.items() if order.version >= oldest or id_ in waiting}
    return {
        "orders": orders,
        "waiting": {id_: order for id_, order in waiting.items() if id_ in orders},
        "outcome": {id_: outcome for id_, outcome in state.outcome.items() if id_ in orders},
        "superseded": state.superseded & orders.keys(),
        "dead": {id_: reason for id_, reason in state.dead.items() if id_ in orders},
    }


_APPLY = {
    "federation-started": _started,
    "registered": _registered,
    "absent": _absent,
    "present": _present,
    "round-opened": _opened,
    "assigned": _assigned,
    "failed": _failed,
    "readmitted": _readmitted,
    "round-closing": _closing,
    "round-closed": _closed,
    "results-lost": _results_lost,
    "finished": _finished,
}
