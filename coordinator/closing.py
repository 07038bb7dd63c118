"""How a round ends: what it counts, what it says of itself, and how the federation ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from coordinator.facts import COUNTS, Answer, Closed, State
from coordinator.moves import Finish, Fold, Forget, Issue, Turn
from shared.messages import MAX_METRICS


def close(turn: Turn, now: float, chosen: Sequence[Answer], *, skipped: bool = False) -> None:
    """Fixes what the round counts, and has the next version made of it."""
    state = turn.state
    rows = sorted(map(Closed.of, chosen))
    counted = {row.id for row in rows}
    for answer in state.accepted.values():
        if answer.id not in counted:
            turn.do(Forget(answer))
    left = len(state.accepted) - len(rows)
    counts = {**state.counts, "accepted": len(rows), "late": state.counts.get("late", 0) + left}
    turn.state = replace(state, counts=counts)
    data = {
        "round": state.round,
        "skipped": skipped,
        "decided": state.decided,
        "read_from": state.read_from,
        "counts": {name: counts.get(name, 0) for name in COUNTS},
        "refusals": {reason: [n, list(offsets)] for reason, (n, offsets) in state.refusals.items()},
        "metrics": mean_metrics([*chosen, *state.evaluations.values()], state.version),
        "assigned": sum(o.round == state.round and o.work != "evaluate" for o in state.orders.values()),
        "opened_at": state.opened_at or now,
    }
    known = counted | state.settled
    settled = [[id_, how] for id_, how in state.outcome.items() if id_ not in known]
    turn.append("round-closing", now, data, [[list(row) for row in rows], settled, evaluated(state)])
    turn.do(Fold(tuple(rows)))


def evaluated(state: State) -> list[list[Any]]:
    """Rows of client, examples, metrics and `Closed`, of those who only evaluated the version."""
    answers = sorted(state.evaluations.values(), key=lambda answer: answer.client)
    return [[a.client, a.evaluated, dict(a.evaluation), list(Closed.of(a))] for a in answers]


def conclude(turn: Turn, now: float) -> None:
    """The last version's evaluation is over, and so is the federation."""
    state = turn.state
    answers = list(state.evaluations.values())
    data = {"version": state.version, "digest": state.digest, "metrics": mean_metrics(answers, state.version)}
    turn.append("evaluated", now, data, evaluated(state))
    finish(turn, now, 0, "all rounds are done")


def mean_metrics(answers: Sequence[Answer], version: int) -> dict[str, float]:
    """Means over clients, by examples: `train_…` of the trainings, plain names of the base's evaluation."""
    sums: dict[str, tuple[float, int]] = {}

    def add(name: str, value: float, weight: int) -> None:
        if name not in sums and len(sums) >= MAX_METRICS:
            return
        total, count = sums.get(name, (0.0, 0))
        sums[name] = (total + value * weight, count + weight)

    for answer in sorted(answers, key=lambda a: (a.client, a.version, a.turn)):
        for name, value in answer.metrics.items():
            add(f"train_{name}", value, answer.examples)
        if answer.version == version:
            for name, value in answer.evaluation.items():
                add(name, value, answer.evaluated)
    return {name: total / count for name, (total, count) in sorted(sums.items()) if count}


def freshest(answers: Iterable[Answer]) -> tuple[Answer, ...]:
    """One answer a client: the one on the newest version; of two on the same, the first in the log."""
    best: dict[str, Answer] = {}
    for answer in answers:
        known = best.get(answer.client)
        if known is None or answer.version > known.version:
            best[answer.client] = answer
    return tuple(best.values())


def finish(turn: Turn, now: float, code: int, reason: str) -> None:
    if turn.state.version >= 0:
        # The last model has no orders, but belongs into the log like the others.
        turn.do(Issue(()))
    turn.append("finished", now, {"code": code, "reason": reason})
    turn.do(Finish(code, reason))


def quorum_lost(turn: Turn, now: float) -> None:
    state = turn.state
    least = state.rules.minimum
    reason = f"round {state.round} had {len(state.accepted)} of at least {least} updates at its deadline"
    finish(turn, now, 4, f"{reason} ({last_reason(state)})")


def last_reason(state: State) -> str:
    return next(reversed(list(state.refusals)), "no client said why")
