"""Refused updates that an operator lets in: whether they may, and from when on they count. Pure.

An `readmitted` entry decides one request, once. An update that was let in is from there on an accepted answer
of the open round, behind what the results log had told until then (`position`). So a coordinator that reads
the log again counts it at the same place, and everything before it gets the verdict that it had.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from math import inf

from coordinator.facts import State
from coordinator.moves import Appealed, Forget, Turn
from coordinator.overlay import put
from coordinator.validation import unfit


def appealed(turn: Turn, event: Appealed) -> bool:
    """Decides a request, if it isn't decided yet; returns whether an update counts now that didn't before."""
    state = turn.state
    if event.request in state.appeals:
        turn.do(Forget(event.answer))
        return False
    refused = unfit(state, event.answer)
    data = {
        "request": event.request,
        "refused": refused,
        "reason": event.reason,
        "who": event.who,
        "login": event.login,
        "round": state.round,
        "position": state.decided,
        "update": asdict(event.answer),
    }
    turn.append("readmitted", event.now, data)
    if refused:
        turn.do(Forget(event.answer))
        return False
    turn.state = take_in(turn.state)
    return True


def take_in(state: State, position: float = inf) -> State:
    """Counts the updates that were let in before the results log was read up to `position`."""
    if not state.readmitted:
        return state
    for place, answer in state.readmitted:
        if place < position:
            more = {name: state.counts.get(name, 0) + 1 for name in ("accepted", "readmitted")}
            state = replace(
                state.answered(answer.id, "accepted"),
                accepted=put(state.accepted, answer.id, answer),
                counts={**state.counts, **more},
            )
    return replace(state, readmitted=tuple(each for each in state.readmitted if each[0] >= position))
